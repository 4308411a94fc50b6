#include "controller/fleet/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sealift::controller {
namespace {

using ::testing::HasSubstr;

const std::string kA(64, 'a');
const std::string kB(64, 'b');

std::string Refused(const std::string& csv) {
  const auto entries = ParseInventory(csv);
  EXPECT_FALSE(entries.ok());
  EXPECT_EQ(ReasonOf(entries.status()), Reason::kInventoryInvalid);
  return MessageOf(entries.status());
}

TEST(Inventory, MachinesComeWithSerialAndLabels) {
  const auto entries =
      ParseInventory("serial,ek_digest,labels\r\nSN-1," + kA + ",site=lab;rack=3\r\n\"SN\"\"2\"," + kB +
                     ",\"site=lab\"\n," + std::string(64, 'c') + ",\n\n");
  ASSERT_TRUE(entries.ok()) << Describe(entries.status());
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ(entries->at(0).serial, "SN-1");
  EXPECT_EQ(entries->at(0).ek.ek_digest.hex(), kA);
  EXPECT_EQ(entries->at(0).ek.labels, (std::map<std::string, std::string>{{"site", "lab"}, {"rack", "3"}}));
  EXPECT_EQ(entries->at(1).serial, "SN\"2");
  EXPECT_TRUE(entries->at(2).ek.labels.empty());
}

TEST(Inventory, EveryBadLineIsNamedAndNothingIsTaken) {
  const std::string message = Refused("serial,ek_digest,labels\nA," + kA + ",\nB,abc,\nC," + kB +
                                      ",site\nD," + kA + ",\nA," + kB + ",\nE," + kB + "\nF,\"" + kB + ",\n");
  EXPECT_THAT(message, HasSubstr("6 lines wrong"));
  EXPECT_THAT(message, HasSubstr("line 3: the EK digest is not 64 hex digits"));
  EXPECT_THAT(message, HasSubstr("line 4: the labels"));
  EXPECT_THAT(message, HasSubstr("line 5: the EK digest is there twice"));
  EXPECT_THAT(message, HasSubstr("line 6: the serial is there twice"));
  EXPECT_THAT(message, HasSubstr("line 7: it has not three fields"));
  EXPECT_THAT(message, HasSubstr("line 8: it has not three fields"));
}

TEST(Inventory, AFileOfAnotherKindIsRefused) {
  EXPECT_THAT(Refused(""), HasSubstr("no machine"));
  EXPECT_THAT(Refused("serial,ek_digest,labels\n"), HasSubstr("no machine"));
  EXPECT_THAT(Refused("ek_digest,serial\n"), HasSubstr("line 1: the header"));
  EXPECT_THAT(Refused("serial,ek_digest,labels\nA B," + kA + ",\n"), HasSubstr("line 2: the serial"));
  EXPECT_THAT(Refused("serial,ek_digest,labels\nA," + kA + ",Site=x\n"), HasSubstr("line 2: the labels"));
  std::string many = "serial,ek_digest,labels\n";
  for (int i = 0; i < 40; ++i) many += "x\n";
  EXPECT_THAT(Refused(many), HasSubstr("40 lines wrong"));
  EXPECT_THAT(Refused(many), HasSubstr("and more"));
}

TEST(JoinTokens, AreLongAndOnlyTheirHashIsKept) {
  const NewJoinToken one = MakeJoinToken();
  const NewJoinToken other = MakeJoinToken();
  EXPECT_NE(one.secret, other.secret);
  EXPECT_EQ(one.secret.size(), std::string("sealift-join-").size() + 64);
  EXPECT_EQ(HashJoinToken(one.secret), one.hash);
  EXPECT_EQ(one.hash.hex().substr(0, 12), one.id);
  EXPECT_EQ(one.secret.find(one.id), std::string::npos);
  EXPECT_FALSE(HashJoinToken("").has_value());
  EXPECT_FALSE(HashJoinToken(one.secret.substr(1)).has_value());
  EXPECT_FALSE(HashJoinToken(one.secret + "0").has_value());
}

}  // namespace
}  // namespace sealift::controller
