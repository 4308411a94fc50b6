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
