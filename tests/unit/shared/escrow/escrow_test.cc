#include "shared/escrow/escrow.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/pem.h>

#include <nlohmann/json.hpp>

#include "shared/crypto/hash.h"
#include "tests/support/escrow_key.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tools.h"

namespace sealift::escrow {
namespace {

using test::ReasonIdFrom;
using test::SoftwareEscrowKey;

SoftwareEscrowKey& Key() {
  static SoftwareEscrowKey key;
  return key;
}
Subject SomeSubject() {
  return {.ek_digest = Sha256(AsBytes("ek")),
          .volume = "persistent",
          .luks_uuid = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
          .slot = 1};
}
EscrowedKey Make(OaepHash oaep = OaepHash::kSha256) {
  return Escrow(SecretBytes(AsBytes("the secret")), SomeSubject(), Key().public_key(), oaep).value();
}

TEST(EscrowTest, ComesBackFromTheKeyItWasMadeForAndThroughItsText) {
  for (const OaepHash oaep : {OaepHash::kSha1, OaepHash::kSha256}) {
    const EscrowedKey made = Make(oaep);
    const auto read = Parse(Format(made));
    ASSERT_TRUE(read.ok()) << Describe(read.status());
    EXPECT_EQ(*read, made);
    EXPECT_TRUE(Open(*read, Key()).value().Equals(AsBytes("the secret")));
    EXPECT_EQ(Format(made).find("the secret"), std::string::npos);
  }
}

TEST(EscrowTest, EveryPartOfItsPurposeIsBound) {
  const EscrowedKey made = Make();
  std::vector<EscrowedKey> changed(7, made);
  changed[0].subject.ek_digest.bytes[0] ^= 1;
  changed[1].subject.volume = "oem";
  changed[2].subject.luks_uuid[0] = '1';
  changed[3].subject.slot = 2;
  changed[4].nonce[0] ^= 1;
  changed[5].ciphertext.back() ^= 1;
  changed[6].escrow_key_id.bytes[0] ^= 1;
  for (const EscrowedKey& one : changed) EXPECT_EQ(ReasonIdFrom(Open(one, Key())), "ESCROW_MALFORMED");
  EscrowedKey other_hash = made;
  other_hash.oaep = OaepHash::kSha1;
  EXPECT_EQ(ReasonIdFrom(Open(other_hash, Key())), "ESCROW_MALFORMED");
  SoftwareEscrowKey other;
  EXPECT_EQ(ReasonIdFrom(Open(made, other)), "ESCROW_MALFORMED");
  EXPECT_TRUE(Open(made, Key()).ok());
}

TEST(EscrowTest, TakesRsaKeysOnly) {
  const auto ec = SoftwareSigner::Generate(KeyType::kEcP256).value();
  EXPECT_EQ(ReasonIdFrom(Escrow(SecretBytes(AsBytes("x")), SomeSubject(), ec->public_key(), OaepHash::kSha1)),
            "KEY_MISMATCH");
}

TEST(EscrowTest, RefusesTextThatIsNoneOrLacksAPart) {
  const auto good = nlohmann::json::parse(Format(Make()));
  EXPECT_TRUE(Parse(good.dump()).ok());
  for (const auto& [name, value] : good.items()) {
    auto without = good;
    without.erase(name);
    EXPECT_EQ(ReasonIdFrom(Parse(without.dump())), "ESCROW_MALFORMED") << name;
    auto wrong = good;
    wrong[name] = nlohmann::json::array({1});
    EXPECT_EQ(ReasonIdFrom(Parse(wrong.dump())), "ESCROW_MALFORMED") << name;
  }
  auto slot = good;
  slot["slot"] = 32;
  EXPECT_EQ(ReasonIdFrom(Parse(slot.dump())), "ESCROW_MALFORMED");
  for (const std::string text : {"", "{", "[]", "null"})
    EXPECT_EQ(ReasonIdFrom(Parse(text)), "ESCROW_MALFORMED");
  EXPECT_EQ(ReasonIdFrom(Parse(std::string(20000, ' '))), "ESCROW_MALFORMED");
}

// Another implementation opens it: python3-cryptography.
TEST(EscrowTest, PythonCryptographyOpensIt) {
  SEALIFT_NEED_TOOL("/usr/bin/python3");
  const auto folder = TempDir::Create("sealift-escrow").value();
  const BioPtr pem(BIO_new(BIO_s_mem()));
  ASSERT_EQ(PEM_write_bio_PrivateKey(pem.get(), Key().evp(), nullptr, nullptr, 0, nullptr, nullptr), 1);
  char* text = nullptr;
  const long size = BIO_get_mem_data(pem.get(), &text);
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "key.pem",
                                  AsBytes(std::string_view(text, static_cast<std::size_t>(size))), 0600)
                  .ok());
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "blob", AsBytes(Format(Make()))).ok());
  const std::string script = R"(
import base64, json, sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
key = serialization.load_pem_private_key(open(sys.argv[1] + "/key.pem", "rb").read(), None)
b = json.load(open(sys.argv[1] + "/blob"))
h = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}[b["oaep"]]
k = key.decrypt(base64.b64decode(b["encrypted_key"]), padding.OAEP(padding.MGF1(h()), h(), None))
aad = "sealift escrow 1\n%s\n%s\n%s\n%s\n%s\n%d\n" % (b["escrow_key"], b["oaep"], b["ek_digest"], b["volume"], b["luks_uuid"], b["slot"])
sys.stdout.write(AESGCM(k).decrypt(base64.b64decode(b["nonce"]), base64.b64decode(b["ciphertext"]), aad.encode()).decode())
)";
  const auto output = test::RunTool({"/usr/bin/python3", "-c", script, folder.path().string()});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(output.out, "the secret");
}

}  // namespace
}  // namespace sealift::escrow
