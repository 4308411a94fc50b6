// What every Signer must do, whatever holds its key. A test program includes this and gives a factory:
//
//   INSTANTIATE_TEST_SUITE_P(Software, SignerContract, ::testing::Values(SignerFactory{"EcP256",
//   MakeSigner}));
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "shared/base/files.h"
#include "shared/base/subprocess.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/signer.h"

namespace sealift {

struct SignerFactory {
  std::string name;
  std::function<std::shared_ptr<Signer>()> make;
};
inline void PrintTo(const SignerFactory& factory, std::ostream* out) { *out << factory.name; }

class SignerContract : public ::testing::TestWithParam<SignerFactory> {
 protected:
  void SetUp() override {
    signer_ = GetParam().make();
    ASSERT_NE(signer_, nullptr);
  }
  SigningRequest Request(const Bytes& digest) const {
    return {.scheme = signer_->public_key().default_scheme(), .digest = digest, .intent = "contract"};
  }
  bool IsSha384() const { return signer_->public_key().default_scheme() == SignatureScheme::kEcdsaSha384; }
  // By the hash that belongs to the key.
  Bytes Digest(std::string_view text) const {
    Bytes digest(IsSha384() ? 48 : 32);
    unsigned size = 0;
    EXPECT_EQ(EVP_Digest(text.data(), text.size(), digest.data(), &size,
                         IsSha384() ? EVP_sha384() : EVP_sha256(), nullptr),
              1);
    return digest;
  }
  std::shared_ptr<Signer> signer_;
};

TEST_P(SignerContract, SignatureVerifiesAndCoversEveryBitOfTheDigest) {
  const Bytes digest = Digest("contract");
  const auto signature = signer_->Sign(Request(digest));
  ASSERT_TRUE(signature.ok()) << Describe(signature.status());
  const PublicKey& key = signer_->public_key();
  EXPECT_TRUE(key.VerifyDigest(digest, *signature, key.default_scheme()).ok());
  for (const std::size_t at : {std::size_t{0}, std::size_t{15}, digest.size() - 1}) {
    Bytes other = digest;
    other.at(at) ^= 1;
    EXPECT_FALSE(key.VerifyDigest(other, *signature, key.default_scheme()).ok());
  }
}

TEST_P(SignerContract, OpensslCommandVerifiesTheSignature) {
  const std::string message = "a message that openssl hashes itself";
  const auto signature = signer_->SignMessage(AsBytes(message), "contract");
  ASSERT_TRUE(signature.ok()) << Describe(signature.status());
  const TempDir folder = TempDir::Create("signer").value();
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "key.pem", AsBytes(signer_->public_key().Pem())).ok());
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "signature", *signature).ok());
  const auto verify = RunCommand(
      {.argv = {"openssl", "dgst", IsSha384() ? "-sha384" : "-sha256", "-verify", folder.path() / "key.pem",
                "-signature", folder.path() / "signature", "/dev/stdin"},
       .stdin_text = message});
  ASSERT_TRUE(verify.ok()) << Describe(verify.status());
  EXPECT_EQ(verify->exit_code, 0) << verify->out << verify->err;
}

TEST_P(SignerContract, RefusesADigestOfAnotherLength) {
  const Bytes short_digest(20);
  const auto signature = signer_->Sign(
      {.scheme = signer_->public_key().default_scheme(), .digest = short_digest, .intent = "contract"});
  EXPECT_FALSE(signature.ok());
}

TEST_P(SignerContract, RefusesASchemeOfAnotherKeyType) {
  const Bytes digest = Digest("x");
  SigningRequest request = Request(digest);
  request.scheme = request.scheme == SignatureScheme::kRsaPkcs1Sha256 ? SignatureScheme::kEcdsaSha256
                                                                      : SignatureScheme::kRsaPkcs1Sha256;
  EXPECT_FALSE(signer_->Sign(request).ok());
}

TEST_P(SignerContract, ManyThreadsSignAtOnce) {
  std::atomic<int> good{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&, i] {
        for (int n = 0; n < 8; ++n) {
          const Bytes digest = Digest(std::to_string(i * 100 + n));
          const auto signature = signer_->Sign(Request(digest));
          const PublicKey& key = signer_->public_key();
          if (signature.ok() && key.VerifyDigest(digest, *signature, key.default_scheme()).ok()) ++good;
        }
      });
    }
  }
  EXPECT_EQ(good, 64);
}

inline std::string SignerFactoryName(const ::testing::TestParamInfo<SignerFactory>& info) {
  return info.param.name;
}

}  // namespace sealift
