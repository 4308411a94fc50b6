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
