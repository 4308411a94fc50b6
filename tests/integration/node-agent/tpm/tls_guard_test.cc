// The TLS key behind its guard, with a real TPM and with the tools of another OS on the same box.
#include "node-agent/tpm/tls_guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "node-agent/tpm/esys_tpm.h"
#include "node-agent/tpm/tls_signer.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/tpm/certify.h"
#include "shared/tpm/key_policy.h"
#include "tests/support/swtpm.h"
#include "tests/support/tools.h"

namespace sealift::agent {
namespace {

using test::Swtpm;
using ::testing::HasSubstr;
using ::testing::Not;

class TlsGuardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "tpm2_sign", "tpm2_createprimary", "tpm2_getcap");
    ::setenv("TSS2_LOG", "all+NONE", 1);
    log::SetLevel(log::Level::kError);
    swtpm_ = Swtpm::Start({.ek_certificate = false});
  }
  // An agent's start.
  std::shared_ptr<Tpm> Open(ByteView guard) {
    auto device = OpenTpmDevice({.tcti = swtpm_->tcti()});
    EXPECT_TRUE(device.ok()) << Describe(device.status());
    return MakeEsysTpm(*device, SecretBytes(guard));
  }
  Bytes KeyOf(ByteView guard) {
    const auto tpm = Open(guard);
    const auto keys = tpm->EnsureKeys();
    EXPECT_TRUE(keys.ok()) << Describe(keys.status());
    const auto signer = MakeTlsSigner(tpm);
    EXPECT_TRUE(signer.ok());
    const auto signature = (*signer)->SignMessage(AsBytes("hello"), "test");
    EXPECT_TRUE(signature.ok()) << Describe(signature.status());
    return keys->tls;
  }
  // A tool of another OS, which has the TPM and not our disk.
  bool ForeignOsSigns(const std::string& handle, const std::vector<std::string>& with = {}) {
    EXPECT_TRUE(WriteFileAtomically(swtpm_->folder() / "message", AsBytes("I am the node")).ok());
    std::vector<std::string> argv{"tpm2_sign", "-c",    handle, "-g",       "sha256",
                                  "-s",        "ecdsa", "-o",   "signature"};
    argv.insert(argv.end(), with.begin(), with.end());
    argv.emplace_back("message");
    return swtpm_->ToolOutput(argv).exit_code == 0;
  }

  std::unique_ptr<Swtpm> swtpm_;
  const Bytes guard_ = RandomBytes(kTlsGuardBytes);
  const Bytes other_ = RandomBytes(kTlsGuardBytes);
};

TEST_F(TlsGuardTest, TheKeyIsTheGuardsThroughPowerCyclesAndLostHandles) {
  const Bytes key = KeyOf(guard_);
  EXPECT_TRUE(tpm::CheckTlsKey(tpm::ParsePublic(key).value()).ok());
  swtpm_->PowerCycle();
  EXPECT_EQ(KeyOf(guard_), key);
  swtpm_->Tool({"tpm2_evictcontrol", "-C", "o", "-c", "0x81000011"});
  EXPECT_EQ(KeyOf(guard_), key);
  // Another guard, as of one boot without the state partition, and the first again.
  const Bytes once = KeyOf(other_);
  EXPECT_NE(once, key);
  EXPECT_EQ(KeyOf(guard_), key);
  EXPECT_EQ(swtpm_->Tool({"tpm2_getcap", "handles-transient"}), "");
  EXPECT_EQ(swtpm_->Tool({"tpm2_getcap", "handles-loaded-session"}), "");
}

TEST_F(TlsGuardTest, AnotherOsOnTheBoxCannotSignWithItNorMakeItAgain) {
  const Bytes key = KeyOf(guard_);
  EXPECT_FALSE(ForeignOsSigns("0x81000011"));
  EXPECT_FALSE(ForeignOsSigns("0x81000011", {"-p", "guess"}));
  EXPECT_FALSE(ForeignOsSigns("0x81000011", {"-p", "hex:" + HexEncode(guard_)}))
      << "the guard is no password";
  // Wrong guesses lock nobody out.
  EXPECT_THAT(swtpm_->Tool({"tpm2_getcap", "properties-variable"}),
              HasSubstr("TPM2_PT_LOCKOUT_COUNTER: 0x0"));
  swtpm_->Tool({"tpm2_createprimary", "-C", "o", "-G", "ecc:ecdsa-sha256", "-a",
                "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign", "-c", "again.ctx", "-f",
                "pem", "-o", "again.pem"});
  EXPECT_NE(PublicKey::FromPem(ReadTextFile(swtpm_->folder() / "again.pem").value()).value(),
            tpm::ParsePublic(key).value().key);
  // What a key without a guard allows, so that the refusals above mean something.
  const Bytes bare = KeyOf({});
  EXPECT_TRUE(ForeignOsSigns("0x81000010"));
  EXPECT_EQ(PublicKey::FromPem(ReadTextFile(swtpm_->folder() / "again.pem").value()).value(),
            tpm::ParsePublic(bare).value().key);
}

TEST_F(TlsGuardTest, TheAttestationKeyCertifiesIt) {
  const auto tpm = Open(guard_);
  const auto keys = tpm->EnsureKeys();
  ASSERT_TRUE(keys.ok());
  const Bytes nonce = RandomBytes(32);
  const auto certified = tpm->CertifyTlsKey(nonce);
  ASSERT_TRUE(certified.ok()) << Describe(certified.status());
  EXPECT_TRUE(tpm::VerifyCertify(certified->attest, certified->signature,
                                 tpm::ParsePublic(keys->attestation).value(), nonce,
                                 tpm::ParsePublic(keys->tls).value())
                  .ok());
}

// A node falls back to an image whose agent knows no guard.
TEST_F(TlsGuardTest, AnOlderAgentFindsItsOwnKeyAsItWas) {
  const Bytes old = KeyOf({});
  const Bytes key = KeyOf(guard_);
  EXPECT_NE(old, key);
  EXPECT_EQ(KeyOf({}), old);
  EXPECT_EQ(KeyOf(guard_), key);
}

TEST(TlsGuardFile, IsMadeOnceAndBelievesNothing) {
  log::SetLevel(log::Level::kError);
  const TempDir folder = TempDir::Create("sealift-guard").value();
  const std::filesystem::path file = folder.path() / "tls-guard";
  const SecretBytes first = LoadOrMakeTlsGuard(file).value();
  EXPECT_EQ(first.size(), kTlsGuardBytes);
  EXPECT_TRUE(LoadOrMakeTlsGuard(file).value().Equals(first.ExposeSecret()));
  struct stat info {};
  ASSERT_EQ(::lstat(file.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode, static_cast<mode_t>(S_IFREG | 0600));
  for (const std::size_t size : {std::size_t{0}, kTlsGuardBytes - 1, kTlsGuardBytes + 1}) {
    ASSERT_TRUE(WriteFileAtomically(file, Bytes(size, 1)).ok());
    EXPECT_FALSE(LoadOrMakeTlsGuard(file).value().Equals(Bytes(kTlsGuardBytes, 1)));
  }
  std::filesystem::remove(file);
  std::filesystem::create_symlink("/dev/zero", file);
  EXPECT_FALSE(LoadOrMakeTlsGuard(file).value().Equals(Bytes(kTlsGuardBytes, 0)));
  EXPECT_FALSE(std::filesystem::is_symlink(file));
  EXPECT_FALSE(LoadOrMakeTlsGuard(folder.path() / "no" / "folder").ok());
}

}  // namespace
}  // namespace sealift::agent
