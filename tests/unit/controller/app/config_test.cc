#include "controller/app/config.h"

#include <gtest/gtest.h>

namespace sealift::controller {
namespace {

constexpr char kLeast[] =
    "state_dir = \"state\"\nkeys = \"/etc/keys\"\ntokens = [\"online=pkcs11:token=o\"]\n";

TEST(ControllerConfigTest, DefaultsAreWhatTheHeaderSays) {
  const auto config = ParseControllerConfig(kLeast, "/etc/sealift/controller.toml");
  ASSERT_TRUE(config.ok()) << Describe(config.status());
  EXPECT_EQ(config->state_dir, "/etc/sealift/state");
  EXPECT_EQ(config->keys, "/etc/keys");
  EXPECT_EQ(config->tuf_root, "/etc/keys/tuf/1.root.json");
  EXPECT_EQ(config->secure_boot, "/etc/keys");
  EXPECT_EQ(config->listen_fleet, "0.0.0.0:7443");
  EXPECT_EQ(config->listen_metrics, "127.0.0.1:9464");
  EXPECT_EQ(config->certificate_lifetime, std::chrono::hours(24));
  EXPECT_TRUE(config->dns_names.empty());
  EXPECT_TRUE(config->tpm_makers.empty());
}

TEST(ControllerConfigTest, ThePolicyOfAttestationIsKeptOrRefused) {
  const auto load = [](const std::string& attestation) {
    return ParseControllerConfig(kLeast + ("[attestation]\n" + attestation), "/c.toml");
  };
  const auto least = load("");
  ASSERT_TRUE(least.ok()) << Describe(least.status());
  EXPECT_EQ(least->baselines.machines, 3u);
  EXPECT_EQ(least->baselines.outlier, Trust::kUnknown);
  EXPECT_EQ(least->attestation.on_untrusted, TrustActions{});
  const auto all = load(
      "baseline_machines = 10\nbaseline_outlier = \"untrusted\"\non_unknown = \"none\"\n"
      "on_untrusted = \"alert quarantine deny-renewal pause-rollouts\"\nquarantine_percent = 5\n");
  ASSERT_TRUE(all.ok()) << Describe(all.status());
  EXPECT_EQ(all->baselines.machines, 10u);
  EXPECT_EQ(all->baselines.outlier, Trust::kUntrusted);
  EXPECT_TRUE(all->attestation.on_untrusted.pause_rollouts);
  EXPECT_FALSE(all->attestation.on_unknown.alert);
  for (const char* text :
       {"baseline_outlier = \"trusted\"\n", "on_untrusted = \"\"\n", "on_unknown = \"reboot\"\n",
        "on_untrusted = \"quarantine\"\n", "quarantine_percent = 5\n"}) {
    EXPECT_EQ(ReasonOf(load(text).status()), Reason::kPolicyUnenforceable) << text;
  }
  EXPECT_EQ(ReasonOf(load("quarantine_percent = 101\n").status()), Reason::kConfigInvalid);
}

// A policy that is present and cannot be enforced never becomes "accept all": each word of each setting, each
// type, each bound.
TEST(ControllerConfigTest, NoSettingOfAPolicyIsLeftOut) {
  const auto reason = [](const std::string& text) {
    return ReasonIdOf(ParseControllerConfig(kLeast + text, "/c.toml").status());
  };
  const std::string attestation = "[attestation]\n", enrolment = "[enrolment]\n";
  for (const char* setting : {"on_untrusted", "on_unknown"}) {
    for (const char* words :
         {"", " ", "alarm", "Alert", "alert alert", "none alert", "alert none", "alert,quarantine",
          "quarantine", "alert quarantine", "deny_renewal", "pause-rollout", "trusted", "*"}) {
      EXPECT_EQ(reason(attestation + setting + " = \"" + words + "\"\n"), "POLICY_UNENFORCEABLE")
          << setting << " " << words;
    }
    for (const char* word : {"alert", "deny-renewal", "pause-rollouts", "none"})
      EXPECT_EQ(reason(attestation + setting + " = \"" + word + "\"\n"), ReasonIdOf(OkStatus())) << word;
    for (const char* value : {"7", "true", "[\"alert\"]", "{ alert = true }"})
      EXPECT_EQ(reason(attestation + setting + " = " + value + "\n"), "CONFIG_INVALID") << setting << value;
  }
  for (const char* outlier : {"\"trusted\"", "\"\"", "\"Unknown\"", "\"none\""})
    EXPECT_EQ(reason(attestation + "baseline_outlier = " + outlier + "\n"), "POLICY_UNENFORCEABLE")
        << outlier;
  for (const char* percent : {"1", "100"}) {
    EXPECT_EQ(reason(attestation + "quarantine_percent = " + percent + "\n"), "POLICY_UNENFORCEABLE");
    EXPECT_EQ(reason(attestation + "on_unknown = \"quarantine\"\nquarantine_percent = " + percent + "\n"),
              ReasonIdOf(OkStatus()));
  }
  for (const char* line : {"quarantine_percent = -1", "quarantine_percent = 101",
                           "quarantine_percent = \"5\"", "baseline_machines = 0", "baseline_machines = \"3\"",
                           "baseline_outlier = 3", "on_trusted = \"alert\"", "alert_command = \"/bin/true\"",
                           "alert_timeout_ms = 0", "alert_per_minute = 0"}) {
    EXPECT_EQ(reason(attestation + line + "\n"), "CONFIG_INVALID") << line;
  }
  for (const char* line :
       {"alert_command = [\"true\"]", "alert_command = [\"\"]", "alert_command = [\"/none\"]",
        "alert_command = [\"/bin\"]", "alert_command = [\"/etc/passwd\"]",
        "alert_command = [\"/bin/true\"]\non_untrusted = \"none\"\non_unknown = \"none\""}) {
    EXPECT_EQ(reason(attestation + line + "\n"), "POLICY_UNENFORCEABLE") << line;
  }
  EXPECT_EQ(reason(attestation + "alert_command = [\"/bin/true\", \"x\"]\n"), ReasonIdOf(OkStatus()));
  // Without makers only a list can be kept.
  for (const char* words : {"", " ", "all", "join-token", "approval", "ek-list approval", "*x"})
    EXPECT_EQ(reason(enrolment + "admit = \"" + words + "\"\n"), "POLICY_UNENFORCEABLE") << words;
  EXPECT_EQ(reason(enrolment + "admit = \"ek-list\"\n"), ReasonIdOf(OkStatus()));
  EXPECT_EQ(reason(enrolment + "admit = true\n"), "CONFIG_INVALID");
  EXPECT_EQ(reason(enrolment + "tpm_makers = 3\n"), "CONFIG_INVALID");
}

TEST(ControllerConfigTest, NamesAreSortedIntoDnsAndIp) {
  const auto config = ParseControllerConfig(
      std::string(kLeast) + "[tls]\nnames = [\"c.example\", \"10.0.2.100\", \"::1\"]\n", "/c.toml");
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->dns_names, std::vector<std::string>{"c.example"});
  EXPECT_EQ(config->ip_addresses, (std::vector<std::string>{"10.0.2.100", "::1"}));
}

TEST(ControllerConfigTest, EveryProblemIsToldAtOnce) {
  const auto config = ParseControllerConfig(
      "keys = 7\n[listen]\nfleet = \"nowhere\"\nenrolment = \"x:99999\"\n[nodes]\npoll_ms = 1\n[log]\nlevel "
      "= \"loud\"\n"
      "[tls]\nnames = [\"\"]\n[typo]\nx = 1\n",
      "/c.toml");
  EXPECT_EQ(ReasonOf(config.status()), Reason::kConfigInvalid);
  for (const char* path : {"state_dir", "keys", "tokens", "listen.fleet", "listen.enrolment", "nodes.poll_ms",
                           "log.level", "tls.names", "typo"}) {
    EXPECT_NE(MessageOf(config.status()).find(path), std::string::npos) << path << "\n"
                                                                        << MessageOf(config.status());
  }
}

TEST(ControllerConfigTest, MetricsMayBeOff) {
  const auto config = ParseControllerConfig(std::string(kLeast) + "[listen]\nmetrics = \"\"\n", "/c.toml");
  ASSERT_TRUE(config.ok());
  EXPECT_TRUE(config->listen_metrics.empty());
}

}  // namespace
}  // namespace sealift::controller
