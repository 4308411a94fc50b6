// NV counters against swtpm: they only grow, and the controller can tell what they hold.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "node-agent/tpm/esys_tpm.h"
#include "shared/crypto/hash.h"
#include "shared/tpm/counter.h"
#include "shared/tpm/key_policy.h"
#include "tests/support/status_matchers.h"
#include "tests/support/swtpm.h"

namespace sealift::agent {
namespace {

using test::ReasonIdFrom;
using test::Swtpm;

const std::string kIndex = "0x1810020";

class EsysCountersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "tpm2_nvundefine", "tpm2_nvdefine");
    ::setenv("TSS2_LOG", "all+NONE", 1);
    swtpm_ = Swtpm::Start({.ek_certificate = false});
  }
  // A swtpm serves one connection at a time.
  std::unique_ptr<TpmCounters> Counters() {
    return MakeEsysCounters(OpenTpmDevice({.tcti = swtpm_->tcti()}).value());
  }
  std::unique_ptr<Swtpm> swtpm_;
};

TEST_F(EsysCountersTest, CountsAcrossPowerCyclesAndIsDefinedOnce) {
  EXPECT_EQ(ReasonIdFrom(Counters()->ReadCounter(kEpochCounter)), "EPOCH_UNUSABLE");
  const auto first = Counters()->DefineCounter(kEpochCounter);
  ASSERT_TRUE(first.ok()) << Describe(first.status());
  EXPECT_EQ(Counters()->DefineCounter(kEpochCounter).value(), *first);
  EXPECT_EQ(Counters()->IncrementCounter(kEpochCounter).value(), *first + 1);
  swtpm_->PowerCycle();
  EXPECT_EQ(Counters()->ReadCounter(kEpochCounter).value(), *first + 1);
}

TEST_F(EsysCountersTest, DefiningItAnewDoesNotLowerIt) {
  ASSERT_TRUE(Counters()->DefineCounter(kEpochCounter).ok());
  std::uint64_t highest = 0;
  for (int i = 0; i < 5; ++i) highest = Counters()->IncrementCounter(kEpochCounter).value();
  swtpm_->Tool({"tpm2_nvundefine", kIndex});
  EXPECT_EQ(ReasonIdFrom(Counters()->ReadCounter(kEpochCounter)), "EPOCH_UNUSABLE");
  EXPECT_GT(Counters()->DefineCounter(kEpochCounter).value(), highest);
}

TEST_F(EsysCountersTest, TakesNothingElseForACounter) {
  // An ordinary index of the same size, with a content of the thief's choice.
  swtpm_->Tool({"tpm2_nvdefine", kIndex, "-s", "8", "-a", "ownerwrite|authwrite|ownerread|authread|no_da"});
  ASSERT_TRUE(WriteFileAtomically(swtpm_->folder() / "zero", Bytes(8, 0)).ok());
  swtpm_->Tool({"tpm2_nvwrite", kIndex, "-i", "zero"});
  for (const auto& answer : {Counters()->ReadCounter(kEpochCounter), Counters()->DefineCounter(kEpochCounter),
                             Counters()->IncrementCounter(kEpochCounter)})
    EXPECT_EQ(ReasonIdFrom(answer), "EPOCH_UNUSABLE");
  EXPECT_EQ(ReasonIdFrom(Counters()->CertifyCounter(kEpochCounter, {})), "EPOCH_UNUSABLE");
}

TEST_F(EsysCountersTest, TheControllerVerifiesWhatTheTpmCertifies) {
  const std::uint64_t value = Counters()->DefineCounter(kEpochCounter).value();
  ASSERT_TRUE(Counters()->DefineCounter(kOrderCounter).ok());
  const Bytes nonce = RandomBytes(32);
  const auto certified = Counters()->CertifyCounter(kEpochCounter, nonce);
  ASSERT_TRUE(certified.ok()) << Describe(certified.status());
  const auto keys = OpenEsysTpm({.tcti = swtpm_->tcti()}).value()->EnsureKeys();
  const auto ak = tpm::ParsePublic(keys->attestation);
  const auto verify = [&](ByteView attest, ByteView with_nonce, std::uint32_t handle) {
    return tpm::VerifyCounter(attest, certified->signature, *ak, with_nonce, handle);
  };
  EXPECT_EQ(verify(certified->attest, nonce, kEpochCounter).value(), value);
  EXPECT_EQ(ReasonIdFrom(verify(certified->attest, RandomBytes(32), kEpochCounter)), "CERTIFY_NONCE_STALE");
  EXPECT_EQ(ReasonIdFrom(verify(certified->attest, nonce, kOrderCounter)), "CERTIFY_NAME_MISMATCH");
  Bytes raised = certified->attest;
  raised.back() ^= 1;
  EXPECT_EQ(ReasonIdFrom(verify(raised, nonce, kEpochCounter)), "CERTIFY_SIGNATURE_INVALID");
  EXPECT_EQ(ReasonIdFrom(verify(ByteView(certified->attest).first(40), nonce, kEpochCounter)),
            "CERTIFY_MALFORMED");
}

TEST_F(EsysCountersTest, TheKeysServeOnAfterACertification) {
  // As the agent has them: over one connection.
  const std::shared_ptr<TpmDevice> device = OpenTpmDevice({.tcti = swtpm_->tcti()}).value();
  const auto tpm = MakeEsysTpm(device, SecretBytes(RandomBytes(32)));
  const auto counters = MakeEsysCounters(device);
  ASSERT_TRUE(tpm->EnsureKeys().ok());
  ASSERT_TRUE(counters->DefineCounter(kEpochCounter).ok());
  const Bytes nonce = RandomBytes(32);
  const std::array<std::uint32_t, 2> registers = {7, 11};
  for (int round = 0; round < 3; ++round) {
    const auto quote = tpm->Quote(nonce, registers);
    EXPECT_TRUE(quote.ok()) << round << ": " << Describe(quote.status());
    const auto certified = counters->CertifyCounter(kEpochCounter, nonce);
    EXPECT_TRUE(certified.ok()) << round << ": " << Describe(certified.status());
    const auto signature = tpm->SignWithTlsKey(Sha256(nonce));
    EXPECT_TRUE(signature.ok()) << round << ": " << Describe(signature.status());
  }
}

}  // namespace
}  // namespace sealift::agent
