#include "shared/efi/auth_variable.h"

#include <gtest/gtest.h>

#include "shared/efi/signed_data.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_keys.h"

namespace sealift::efi {
namespace {

using test::ReasonIdFrom;

const UnixMillis kTime = ParseRfc3339("2026-11-23T02:51:58Z").value();
const Guid kOwner = Guid::Parse("11223344-5566-7788-99aa-bbccddeeff00").value();

class AuthVariableTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    pk_ = new test::TestKey(test::MakeTestKey("PK"));
    kek_ = new test::TestKey(test::MakeTestKey("KEK", pk_));
    db_ = new test::TestKey(test::MakeTestKey("db"));
  }
  Bytes DbAuth(const VariableTarget& target) {
    return BuildAuthenticatedVariable(target, kTime, DbContent(), *kek_->signer, kek_->certificate).value();
  }
  static Bytes DbContent() {
    return SerializeSignatureLists(SignatureLists{X509SignatureList(kOwner, db_->certificate)});
  }
  static SignatureLists Trust(const test::TestKey& key) {
    return {X509SignatureList(kOwner, key.certificate)};
  }

  static inline test::TestKey* pk_;
  static inline test::TestKey* kek_;
  static inline test::TestKey* db_;
};

TEST_F(AuthVariableTest, MonthIsTheCalendarMonth) {
  EXPECT_EQ(ToEfiTime(kTime), (EfiTime{2026, 11, 23, 2, 51, 58}));
  EXPECT_EQ(ToEfiTime(ParseRfc3339("2024-01-31T23:59:59Z").value()), (EfiTime{2024, 1, 31, 23, 59, 59}));
  const Bytes auth = DbAuth(SecureBootVariable("db").value());
  EXPECT_EQ(HexEncode(ByteView(auth).first(16)), "ea070b1702333a000000000000000000");
}

TEST_F(AuthVariableTest, SignedDataIsBareAndWithoutAttributes) {
  const auto variable = ParseAuthenticatedVariable(DbAuth(SecureBootVariable("db").value()));
  ASSERT_TRUE(variable.ok());
  ByteView rest = variable->signed_data;
  ByteView inside;
  ASSERT_TRUE(DerTake(rest, 0x30, inside).ok());
  ByteView version;
  EXPECT_TRUE(DerTake(inside, 0x02, version).ok()) << "starts with ContentInfo's OID, not with a version";
  EXPECT_EQ(variable->payload, DbContent());
  // messageDigest, which only signed attributes have.
  EXPECT_EQ(HexEncode(variable->signed_data).find("2a864886f70d010904"), std::string::npos);
}

TEST_F(AuthVariableTest, VerifiesUnderTheSignerAndItsIssuer) {
  const VariableTarget target = SecureBootVariable("db").value();
  const auto direct = VerifyAuthenticatedVariable(DbAuth(target), target, Trust(*kek_));
  ASSERT_TRUE(direct.ok()) << direct.status();
  EXPECT_EQ(direct->authority.data, kek_->certificate);
  EXPECT_EQ(direct->content.at(0).entries.at(0).data, db_->certificate);
  EXPECT_EQ(direct->time, ToEfiTime(kTime));
  EXPECT_EQ(VerifyAuthenticatedVariable(DbAuth(target), target, Trust(*pk_))->authority.data,
            pk_->certificate);
}

TEST_F(AuthVariableTest, IsReproducible) {
  const VariableTarget target = SecureBootVariable("db").value();
  EXPECT_EQ(DbAuth(target), DbAuth(target));
}

TEST_F(AuthVariableTest, RefusesASignerTheMachineDoesNotTrust) {
  const VariableTarget target = SecureBootVariable("db").value();
  EXPECT_EQ(ReasonIdFrom(VerifyAuthenticatedVariable(DbAuth(target), target, Trust(*db_))),
            "CERTIFICATE_INVALID");
  EXPECT_EQ(ReasonIdFrom(VerifyAuthenticatedVariable(DbAuth(target), target, {})), "CERTIFICATE_INVALID");
}

TEST_F(AuthVariableTest, NameVendorAttributesTimeAndPayloadAreSigned) {
  const VariableTarget target = SecureBootVariable("db").value();
  const Bytes auth = DbAuth(target);
  VariableTarget other = target;
  other.name = "dbx";
  EXPECT_EQ(ReasonIdFrom(VerifyAuthenticatedVariable(auth, other, Trust(*kek_))), "SIGNATURE_INVALID");
  other = target;
  other.vendor = kGlobalVariable;
  EXPECT_EQ(ReasonIdFrom(VerifyAuthenticatedVariable(auth, other, Trust(*kek_))), "SIGNATURE_INVALID");
  other = target;
  other.attributes = kAppendAttributes;
  EXPECT_EQ(ReasonIdFrom(VerifyAuthenticatedVariable(auth, other, Trust(*kek_))), "SIGNATURE_INVALID");
  Bytes changed = auth;
  changed[3] = 22;  // the day
  EXPECT_EQ(ReasonIdFrom(VerifyAuthenticatedVariable(changed, target, Trust(*kek_))), "SIGNATURE_INVALID");
  changed = auth;
  changed.back() ^= 1;
  EXPECT_EQ(ReasonIdFrom(VerifyAuthenticatedVariable(changed, target, Trust(*kek_))), "SIGNATURE_INVALID");
}

TEST_F(AuthVariableTest, EveryTruncationIsRefused) {
  const VariableTarget target = SecureBootVariable("db").value();
  const Bytes auth = DbAuth(target);
  for (std::size_t size = 0; size < auth.size(); ++size)
    ASSERT_FALSE(VerifyAuthenticatedVariable(ByteView(auth).first(size), target, Trust(*kek_)).ok()) << size;
}

TEST_F(AuthVariableTest, CertificateMustBeOfTheKey) {
  const auto result = BuildAuthenticatedVariable(SecureBootVariable("PK").value(), kTime, DbContent(),
                                                 *pk_->signer, kek_->certificate);
  EXPECT_EQ(ReasonIdFrom(result), "KEY_MISMATCH");
  const test::TestKey ec = test::MakeTestKey("ec", nullptr, KeyType::kEcP256);
  EXPECT_EQ(ReasonIdFrom(BuildAuthenticatedVariable(SecureBootVariable("PK").value(), kTime, DbContent(),
                                                    *ec.signer, ec.certificate)),
            "KEY_MISMATCH");
}

TEST_F(AuthVariableTest, JournalSeesWhatIsSigned) {
  test::RecordingSigner recorder(*pk_->signer);
  ASSERT_TRUE(
      BuildAuthenticatedVariable(SecureBootVariable("KEK").value(), kTime, {}, recorder, pk_->certificate)
          .ok());
  ASSERT_EQ(recorder.intents.size(), 1u);
  EXPECT_EQ(recorder.intents[0], "authenticated variable KEK at 2026-11-23T02:51:58Z");
}

TEST_F(AuthVariableTest, OnlySecureBootVariablesHaveAKnownVendor) {
  EXPECT_EQ(SecureBootVariable("KEK")->vendor, kGlobalVariable);
  EXPECT_EQ(SecureBootVariable("dbx", kAppendAttributes)->vendor, kImageSecurityDatabase);
  EXPECT_EQ(ReasonIdFrom(SecureBootVariable("Boot0000")), "INVALID_ARGUMENT");
}

}  // namespace
}  // namespace sealift::efi
