#include "node-agent/install/firmware_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/base/files.h"
#include "shared/efi/auth_variable.h"
#include "tests/contract/map_efi_variables.h"
#include "tests/support/test_keys.h"

namespace sealift::agent {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const efi::Guid kOwner = efi::Guid::Parse("11223344-5566-7788-99aa-bbccddeeff00").value();

// A firmware that stores what an .auth file says and leaves setup mode with PK.
class FakeFirmware final : public MapEfiVariables {
 public:
  FakeFirmware() {
    Set("SecureBoot", kGlobalVendor, {0});
    Set("SetupMode", kGlobalVendor, {1});
  }
  Status Write(std::string_view name, std::string_view vendor, std::uint32_t attributes,
               ByteView value) override {
    SEALIFT_RETURN_IF_ERROR(MapEfiVariables::Write(name, vendor, attributes, value));
    if (attributes != efi::kReplaceAttributes) return OkStatus();
    const auto variable = efi::ParseAuthenticatedVariable(value);
    SEALIFT_RETURN_IF_ERROR(variable.status());
    Set(name, vendor, name == spoiled_ ? Bytes() : variable->payload);
    if (name == "PK") Set("SetupMode", kGlobalVendor, {0});
    return OkStatus();
  }
  void Reboot() { Set("SecureBoot", kGlobalVendor, {1}); }
  void Spoil(std::string name) { spoiled_ = std::move(name); }

 private:
  std::string spoiled_;
};

class FirmwareKeysTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    pk_ = new test::TestKey(test::MakeTestKey("PK"));
    kek_ = new test::TestKey(test::MakeTestKey("KEK"));
    db_ = new test::TestKey(test::MakeTestKey("db"));
  }
  static efi::SignatureLists Lists(const test::TestKey& key) {
    return {efi::X509SignatureList(kOwner, key.certificate)};
  }
  void Put(const std::string& name, const efi::SignatureLists& lists, const test::TestKey& by) {
    const Bytes auth =
        efi::BuildAuthenticatedVariable(efi::SecureBootVariable(name).value(), FromUnixMs(1'700'000'000'000),
                                        efi::SerializeSignatureLists(lists), *by.signer, by.certificate)
            .value();
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / (name + ".auth"), auth).ok());
  }
  FirmwareKeys Load() {
    Put("PK", Lists(*pk_), *pk_);
    Put("KEK", Lists(*kek_), *pk_);
    Put("db", Lists(*db_), *kek_);
    Put("dbx", {efi::Sha256SignatureList(kOwner, std::vector<Sha256Digest>(1))}, *kek_);
    auto keys = LoadFirmwareKeys(folder_.path());
    EXPECT_TRUE(keys.ok()) << Describe(keys.status());
    return *keys;
  }
  Status Enrol(const FirmwareKeys& keys) {
    return EnrolFirmwareKeys(firmware_, keys, [this](std::string_view name) { told_.emplace_back(name); });
  }

  static inline test::TestKey* pk_;
  static inline test::TestKey* kek_;
  static inline test::TestKey* db_;
  TempDir folder_ = TempDir::Create("sealift-keys").value();
  FakeFirmware firmware_;
  std::vector<std::string> told_;
};

TEST_F(FirmwareKeysTest, PkIsEnrolledLast) {
  const FirmwareKeys keys = Load();
  EXPECT_EQ(InspectFirmware(firmware_, keys)->state, FirmwareState::kSetupMode);
  ASSERT_TRUE(Enrol(keys).ok());
  EXPECT_THAT(firmware_.writes(), ElementsAre("dbx", "db", "KEK", "PK"));
  EXPECT_THAT(told_, ElementsAre("dbx", "db", "KEK", "PK"));
  EXPECT_EQ(firmware_.AttributesOf("PK", kGlobalVendor), 0x27u);
  EXPECT_EQ(InspectFirmware(firmware_, keys)->state, FirmwareState::kOff);
  firmware_.Reboot();
  EXPECT_EQ(InspectFirmware(firmware_, keys)->state, FirmwareState::kOurs);
  EXPECT_TRUE(RequireOurKeys(*InspectFirmware(firmware_, keys)).ok());
}

TEST_F(FirmwareKeysTest, ARefusedKekLeavesSetupModeAndCanBeRepeated) {
  const FirmwareKeys keys = Load();
  FakeFirmware refusing;
  refusing.RefuseWrites("KEK");
  const Status status = EnrolFirmwareKeys(refusing, keys, [](std::string_view) {});
  EXPECT_EQ(ReasonOf(status), Reason::kFirmwareRefused);
  EXPECT_EQ(InspectFirmware(refusing, keys)->state, FirmwareState::kSetupMode);
  // What is there already is not written twice.
  ASSERT_TRUE(Enrol(keys).ok());
  ASSERT_TRUE(Enrol(keys).ok());
  EXPECT_EQ(firmware_.writes().size(), 4u);
}

TEST_F(FirmwareKeysTest, WhatTheFirmwareMadeOfItIsReadBack) {
  firmware_.Spoil("db");
  const Status status = Enrol(Load());
  EXPECT_EQ(ReasonOf(status), Reason::kFirmwareRefused);
  EXPECT_THAT(MessageOf(status), HasSubstr("enrol db"));
  // PK would have ended setup mode with a db that starts nothing.
  EXPECT_THAT(firmware_.writes(), ElementsAre("dbx", "db"));
}

TEST_F(FirmwareKeysTest, OtherKeysAreForeignAndNamed) {
  const FirmwareKeys keys = Load();
  ASSERT_TRUE(Enrol(keys).ok());
  firmware_.Reboot();
  const efi::SignatureLists both{Lists(*db_)[0], Lists(*kek_)[0]};
  firmware_.Set("db", kImageSecurityVendor, efi::SerializeSignatureLists(both));
  FirmwareReport report = *InspectFirmware(firmware_, keys);
  EXPECT_EQ(report.state, FirmwareState::kForeign);
  EXPECT_THAT(report.differences, ElementsAre("db holds 1 entries more than this fleet's"));
  firmware_.Set("db", kImageSecurityVendor, efi::SerializeSignatureLists(Lists(*db_)));
  firmware_.Set("PK", kGlobalVendor, efi::SerializeSignatureLists(Lists(*kek_)));
  report = *InspectFirmware(firmware_, keys);
  EXPECT_THAT(report.differences, ElementsAre("PK lacks entries of this fleet's"));
  EXPECT_EQ(ReasonOf(RequireOurKeys(report)), Reason::kSecureBootForeign);
}

TEST_F(FirmwareKeysTest, MoreRevocationsThanOursAreFine) {
  const FirmwareKeys keys = Load();
  ASSERT_TRUE(Enrol(keys).ok());
  firmware_.Reboot();
  std::vector<Sha256Digest> digests(2);
  digests[1].bytes[0] = 1;
  firmware_.Set("dbx", kImageSecurityVendor,
                efi::SerializeSignatureLists(efi::SignatureLists{efi::Sha256SignatureList(kOwner, digests)}));
  EXPECT_EQ(InspectFirmware(firmware_, keys)->state, FirmwareState::kOurs);
  firmware_.Set("dbx", kImageSecurityVendor, {});
  EXPECT_EQ(InspectFirmware(firmware_, keys)->state, FirmwareState::kForeign);
}

TEST_F(FirmwareKeysTest, ThePresentListsAreSaved) {
  firmware_.Set("db", kImageSecurityVendor, Bytes{1, 2, 3});
  EXPECT_THAT(*SavePresentLists(firmware_, folder_.path() / "before"), ElementsAre("db.esl"));
  EXPECT_EQ(*ReadFile(folder_.path() / "before/db.esl"), (Bytes{1, 2, 3}));
}

TEST_F(FirmwareKeysTest, AMissingOrDamagedFileIsTheMediumsFault) {
  Load();
  std::filesystem::remove(folder_.path() / "dbx.auth");
  EXPECT_TRUE(LoadFirmwareKeys(folder_.path()).ok());
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "db.auth", Bytes{1}).ok());
  EXPECT_EQ(ReasonOf(LoadFirmwareKeys(folder_.path()).status()), Reason::kMediumUnusable);
  std::filesystem::remove(folder_.path() / "db.auth");
  EXPECT_EQ(ReasonOf(LoadFirmwareKeys(folder_.path()).status()), Reason::kMediumUnusable);
}

}  // namespace
}  // namespace sealift::agent
