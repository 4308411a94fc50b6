#include "node-agent/volume/system_volumes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "node-agent/volume/key_derivation.h"
#include "shared/base/files.h"

namespace sealift::agent {
namespace {

using ::testing::Pair;
using ::testing::UnorderedElementsAre;

class PartitionsTest : public ::testing::Test {
 protected:
  void Add(const std::string& name, const std::string& uevent) {
    ASSERT_TRUE(MakeDirectories(folder_.path() / name).ok());
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / name / "uevent", AsBytes(uevent)).ok());
  }
  const TempDir folder_ = TempDir::Create("sealift-sysfs").value();
};

TEST_F(PartitionsTest, FindsEveryPartitionOfANameOnEveryDisk) {
  Add("vda", "MAJOR=254\nMINOR=0\nDEVNAME=vda\nDEVTYPE=disk\n");
  Add("vda2", "MAJOR=254\nDEVNAME=vda2\nDEVTYPE=partition\nPARTN=2\nPARTNAME=oem\n");
  Add("vda3", "DEVNAME=vda3\nDEVTYPE=partition\nPARTNAME=persistent\n");
  Add("sdb1", "DEVNAME=sdb1\nDEVTYPE=partition\nPARTNAME=persistent\n");
  Add("sdb2", "DEVNAME=../../etc/passwd\nPARTNAME=persistent\n");
  Add("sdb3", "PARTNAME=\nDEVNAME=sdb3\n");
  ASSERT_TRUE(MakeDirectories(folder_.path() / "empty").ok());
  EXPECT_THAT(PartitionsByLabel(folder_.path(), "/dev"),
              UnorderedElementsAre(Pair("oem", "/dev/vda2"), Pair("persistent", "/dev/vda3"),
                                   Pair("persistent", "/dev/sdb1")));
  EXPECT_TRUE(PartitionsByLabel(folder_.path() / "none", "/dev").empty());
}

TEST(KeyDerivationTest, IsHkdfAsOthersComputeIt) {
  // openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt hexkey:07*32 -kdfopt info:passphrase HKDF
  const SecretBytes key = DeriveKey(Bytes(32, 7), "passphrase");
  EXPECT_EQ(HexEncode(key.ExposeSecret()),
            "3af36d55ea4c44df3ded816cfb28741819da98061894057d3d4f357f6abd5575");
  EXPECT_FALSE(DeriveKey(Bytes(32, 7), "proof").Equals(key.ExposeSecret()));
}

TEST(KeyDerivationTest, TheTagTellsEveryPartAndItsBorders) {
  const SecretBytes key(Bytes(64, 1));
  const SecretBytes other_key(Bytes(64, 2));
  const Bytes secret(32, 7);
  const Sha256Digest tag = VolumeTag(secret, "oem", "u", "c", key);
  EXPECT_NE(tag, VolumeTag(secret, "oe", "mu", "c", key));
  EXPECT_NE(tag, VolumeTag(secret, "oem", "v", "c", key));
  EXPECT_NE(tag, VolumeTag(secret, "oem", "u", "d", key));
  EXPECT_NE(tag, VolumeTag(secret, "oem", "u", "c", other_key));
  EXPECT_NE(tag, VolumeTag(Bytes(32, 8), "oem", "u", "c", key));
  EXPECT_EQ(tag, VolumeTag(secret, "oem", "u", "c", key));
}

}  // namespace
}  // namespace sealift::agent
