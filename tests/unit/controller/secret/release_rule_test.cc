#include "controller/secret/release_rule.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace sealift::controller {
namespace {

using test::ReasonIdFrom;

bool Allows(const char* rule, const char* channel, const char* version) {
  const auto parsed = ReleaseRule::Parse(rule);
  EXPECT_TRUE(parsed.ok()) << rule << ": " << Describe(parsed.status());
  return parsed.ok() && parsed->Allows(channel, version);
}

TEST(ReleaseRule, OneVersionARangeOrAny) {
  EXPECT_TRUE(Allows("stable:1.2", "stable", "1.2"));
  EXPECT_FALSE(Allows("stable:1.2", "stable", "1.2.1"));
  EXPECT_TRUE(Allows("stable:1.2..1.10", "stable", "1.2"));
  EXPECT_TRUE(Allows("stable:1.2..1.10", "stable", "1.9"));
  EXPECT_TRUE(Allows("stable:1.2..1.10", "stable", "1.10"));
  // Versions, not text.
  EXPECT_FALSE(Allows("stable:1.2..1.10", "stable", "1.11"));
  EXPECT_FALSE(Allows("stable:1.2..1.10", "stable", "1.1"));
  EXPECT_TRUE(Allows("stable:2.0..", "stable", "10.0"));
  EXPECT_FALSE(Allows("stable:2.0..", "stable", "1.9"));
  EXPECT_TRUE(Allows("stable:..2.0", "stable", "0.1"));
  EXPECT_FALSE(Allows("stable:..2.0", "stable", "2.0.1"));
  EXPECT_TRUE(Allows("stable:*", "stable", "0.0.1"));
}

TEST(ReleaseRule, AChannelIsThatChannelAlone) {
  EXPECT_FALSE(Allows("stable:*", "edge", "1.0"));
  EXPECT_TRUE(Allows("stable:1.0,edge:2.0..", "edge", "2.1"));
  EXPECT_FALSE(Allows("stable:1.0,edge:2.0..", "stable", "2.1"));
}

TEST(ReleaseRule, TextIsCanonicalAndParsesToTheSame) {
  for (const char* rule : {"stable:1.2", "stable:1.2..1.4", "stable:1.2..", "stable:..1.4", "stable:*",
                           "stable:1.2..1.4,edge:*"}) {
    EXPECT_EQ(ReleaseRule::Parse(rule)->text(), rule);
  }
  EXPECT_EQ(ReleaseRule::Parse("stable:1.2..1.2")->text(), "stable:1.2");
}

TEST(ReleaseRule, RefusesWhatSaysNothingOrNonsense) {
  for (const char* rule : {"", "stable", "stable:", ":1.0", "stable:..", "stable:1.0,", ",stable:1.0",
                           "stable:2.0..1.0", "stable:a b", "sta ble:1.0", "stable:1.0\n", "stable:/etc"}) {
    EXPECT_EQ(ReasonIdFrom(ReleaseRule::Parse(rule)), "INVALID_ARGUMENT") << rule;
  }
  std::string many = "stable:1.0";
  for (int i = 0; i < 16; ++i) many += ",stable:1.0";
  EXPECT_EQ(ReasonIdFrom(ReleaseRule::Parse(many)), "INVALID_ARGUMENT");
}

}  // namespace
}  // namespace sealift::controller
