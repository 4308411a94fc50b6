#include "shared/crypto/certificate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>

#include "shared/base/files.h"
#include "shared/base/subprocess.h"
#include "shared/crypto/key_reference.h"

namespace sealift {
namespace {

using std::chrono::hours;

const UnixMillis kNow = ParseRfc3339("2026-11-23T12:00:00Z").value();

std::shared_ptr<Signer> NewKey(KeyType type = KeyType::kEcP256) {
  return std::shared_ptr<Signer>(SoftwareSigner::Generate(type).value());
}

class CertificateTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(InstallKeyProvider().ok()); }

  static CertificateSpec CaSpec(const std::string& name) {
    return {.common_name = name,
            .ca = true,
            .path_length = 0,
            .not_before = kNow - hours(1),
            .not_after = kNow + hours(24 * 365)};
  }
  static CertificateSpec NodeSpec() {
    return {.common_name = "node",
            .uris = {"sealift:node:0190a3c4-0000-7000-8000-000000000001"},
            .client_auth = true,
            .not_before = kNow - hours(1),
            .not_after = kNow + hours(24)};
  }
  Certificate Issue(const CertificateSpec& spec) {
    return IssueCertificate(spec, NewKey()->public_key(), ca_key_, ca_, "test").value();
  }

  std::shared_ptr<Signer> ca_key_ = NewKey();
  Certificate ca_ = IssueSelfSigned(CaSpec("node CA"), ca_key_, "test").value();
};

TEST_F(CertificateTest, IssuedCertificateSaysWhatTheSpecSays) {
  CertificateSpec spec = NodeSpec();
  spec.dns_names = {"node.example"};
  spec.ip_addresses = {"192.0.2.7", "2001:db8::7"};
  const Certificate leaf = Issue(spec);
  EXPECT_EQ(leaf.common_name(), "node");
  EXPECT_EQ(leaf.uris(), spec.uris);
  EXPECT_EQ(leaf.dns_names(), spec.dns_names);
  EXPECT_EQ(leaf.IssuerText(), "CN=node CA");
  EXPECT_EQ(leaf.not_before(), spec.not_before);
  EXPECT_EQ(leaf.not_after(), spec.not_after);
  EXPECT_EQ(leaf.serial().size(), 16u);
  EXPECT_NE(leaf.serial(), Issue(spec).serial());
  EXPECT_FALSE(leaf.is_ca());
  EXPECT_TRUE(ca_.is_ca());
  EXPECT_EQ(Certificate::FromPem(leaf.Pem()).value(), leaf);
}

TEST_F(CertificateTest, OpensslCommandReadsAndVerifiesIt) {
  CertificateSpec spec = NodeSpec();
  spec.ip_addresses = {"192.0.2.7"};
  const Certificate leaf = Issue(spec);
  const TempDir folder = TempDir::Create("certificate").value();
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "ca.pem", AsBytes(ca_.Pem())).ok());
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "leaf.pem", AsBytes(leaf.Pem())).ok());
  const auto verify = RunCommand({.argv = {"openssl", "verify", "-x509_strict", "-purpose", "sslclient",
                                           "-attime", std::to_string(ToUnixMs(kNow) / 1000), "-CAfile",
                                           folder.path() / "ca.pem", folder.path() / "leaf.pem"}});
  ASSERT_TRUE(verify.ok());
  EXPECT_EQ(verify->exit_code, 0) << verify->err;
  const auto text = RunCommand({.argv = {"openssl", "x509", "-noout", "-text", "-fingerprint", "-sha256",
                                         "-in", folder.path() / "leaf.pem"}});
  ASSERT_TRUE(text.ok());
  for (const char* expected : {"URI:sealift:node:0190a3c4-0000-7000-8000-000000000001, IP Address:192.0.2.7",
                               "TLS Web Client Authentication", "Digital Signature", "CA:FALSE",
                               "ecdsa-with-SHA256", "X509v3 Authority Key Identifier"}) {
    EXPECT_NE(text->out.find(expected), std::string::npos) << expected << "\n" << text->out;
  }
  std::string fingerprint;
  for (const char c : text->out.substr(text->out.rfind('=') + 1)) {
    if (c != ':' && c != '\n') fingerprint += static_cast<char>(std::tolower(c));
  }
  EXPECT_EQ(fingerprint, leaf.fingerprint().hex());
}

TEST_F(CertificateTest, ChainIsEvidenceFromLeafToAnchor) {
  const auto root_key = NewKey(KeyType::kRsa);
  CertificateSpec root_spec = CaSpec("root");
  root_spec.path_length = 1;
  const Certificate root = IssueSelfSigned(root_spec, root_key, "test").value();
  const Certificate middle =
      IssueCertificate(CaSpec("node CA"), ca_key_->public_key(), root_key, root, "test").value();
  const Certificate leaf =
      IssueCertificate(NodeSpec(), NewKey()->public_key(), ca_key_, middle, "test").value();
  const auto chain = VerifyChain(leaf, {middle}, {root}, kNow, CertificatePurpose::kClient);
  ASSERT_TRUE(chain.ok()) << Describe(chain.status());
  ASSERT_EQ(chain->chain.size(), 3u);
  EXPECT_EQ(chain->leaf(), leaf);
  EXPECT_EQ(chain->anchor(), root);
  // Without the intermediate; without an anchor.
  EXPECT_FALSE(VerifyChain(leaf, {}, {root}, kNow, CertificatePurpose::kClient).ok());
  EXPECT_FALSE(VerifyChain(leaf, {middle}, {}, kNow, CertificatePurpose::kClient).ok());
}

TEST_F(CertificateTest, RefusesEachWayAChainCanBeWrong) {
  const Certificate leaf = Issue(NodeSpec());
  const auto verify = [&](const Certificate& what, UnixMillis at, CertificatePurpose purpose) {
    return VerifyChain(what, {}, {ca_}, at, purpose).status();
  };
  EXPECT_TRUE(verify(leaf, kNow, CertificatePurpose::kClient).ok());
  EXPECT_TRUE(verify(leaf, kNow, CertificatePurpose::kAny).ok());
  // Wrong purpose, too early, too late.
  EXPECT_EQ(ReasonOf(verify(leaf, kNow, CertificatePurpose::kServer)), Reason::kCertificateInvalid);
  EXPECT_EQ(ReasonOf(verify(leaf, kNow - hours(2), CertificatePurpose::kClient)),
            Reason::kCertificateInvalid);
  EXPECT_EQ(ReasonOf(verify(leaf, kNow + hours(25), CertificatePurpose::kClient)),
            Reason::kCertificateInvalid);
  // No purpose named at all.
  CertificateSpec no_purpose = NodeSpec();
  no_purpose.client_auth = false;
  EXPECT_EQ(ReasonOf(verify(Issue(no_purpose), kNow, CertificatePurpose::kClient)),
            Reason::kCertificateInvalid);
  // A CA of the same name with another key.
  const auto other_key = NewKey();
  const Certificate other = IssueSelfSigned(CaSpec("node CA"), other_key, "test").value();
  EXPECT_FALSE(VerifyChain(leaf, {}, {other}, kNow, CertificatePurpose::kClient).ok());
  // A leaf that plays CA.
  const auto leaf_key = NewKey();
  EXPECT_EQ(
      ReasonOf(IssueCertificate(
                   NodeSpec(), NewKey()->public_key(), leaf_key,
                   IssueCertificate(NodeSpec(), leaf_key->public_key(), ca_key_, ca_, "test").value(), "test")
                   .status()),
      Reason::kKeyMismatch);
  // A key that is not the certificate's.
  EXPECT_EQ(ReasonOf(IssueCertificate(NodeSpec(), NewKey()->public_key(), NewKey(), ca_, "test").status()),
            Reason::kKeyMismatch);
  // A flipped bit anywhere in the signature.
  Bytes der = leaf.der();
  der.back() ^= 1;
  const auto changed = Certificate::FromDer(der);
  EXPECT_TRUE(!changed.ok() || !verify(*changed, kNow, CertificatePurpose::kClient).ok());
}

TEST_F(CertificateTest, RefusesMalformedBytes) {
  const Certificate leaf = Issue(NodeSpec());
  Bytes longer = leaf.der();
  longer.push_back(0);
  EXPECT_EQ(ReasonOf(Certificate::FromDer(longer).status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(Certificate::FromDer(ByteView(leaf.der()).first(leaf.der().size() - 1)).status()),
            Reason::kMalformed);
  EXPECT_EQ(ReasonOf(Certificate::FromDer({}).status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(Certificate::FromDer(Bytes(kMaxCertificateBytes + 1)).status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(Certificate::FromPem(leaf.Pem() + ca_.Pem()).status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(Certificate::FromPem("").status()), Reason::kMalformed);
  EXPECT_EQ(Certificate::ChainFromPem(leaf.Pem() + ca_.Pem())->size(), 2u);
  EXPECT_EQ(ReasonOf(Certificate::ChainFromPem(leaf.Pem() + "-----BEGIN CERTIFICATE-----\nAAAA\n").status()),
            Reason::kMalformed);
}

TEST_F(CertificateTest, RefusesSpecsThatCannotBeWritten) {
  const auto refused = [&](const CertificateSpec& spec) {
    return ReasonOf(IssueSelfSigned(spec, ca_key_, "test").status()) == Reason::kInvalidArgument;
  };
  CertificateSpec spec = NodeSpec();
  spec.common_name = std::string(65, 'x');
  EXPECT_TRUE(refused(spec));
  spec = NodeSpec();
  spec.ip_addresses = {"300.1.1.1"};
  EXPECT_TRUE(refused(spec));
  spec = NodeSpec();
  spec.uris = {"sealift:operator:a b"};
  EXPECT_TRUE(refused(spec));
  spec = NodeSpec();
  spec.not_after = spec.not_before;
  EXPECT_TRUE(refused(spec));
}

TEST_F(CertificateTest, RequestProvesItsKey) {
  const auto key = NewKey();
  const Bytes der = CreateCertificateRequest("node", {"sealift:node:x"}, key, "certificate request").value();
  const auto request = CertificateRequest::FromDer(der);
  ASSERT_TRUE(request.ok()) << Describe(request.status());
  EXPECT_EQ(request->public_key(), key->public_key());
  EXPECT_EQ(request->common_name(), "node");
  EXPECT_EQ(request->uris(), std::vector<std::string>{"sealift:node:x"});
  Bytes changed = der;
  const std::string needle = "node";
  const auto name = std::search(changed.begin(), changed.end(), needle.begin(), needle.end());
  ASSERT_NE(name, changed.end());
  *name = 'm';
  EXPECT_EQ(ReasonOf(CertificateRequest::FromDer(changed).status()), Reason::kSignatureInvalid);
  EXPECT_EQ(ReasonOf(CertificateRequest::FromDer(ByteView(der).first(20)).status()), Reason::kMalformed);
  const auto command =
      RunCommand({.argv = {"openssl", "req", "-inform", "DER", "-verify", "-noout", "-in", "/dev/stdin"},
                  .stdin_text = ToText(der)});
  ASSERT_TRUE(command.ok());
  EXPECT_EQ(command->exit_code, 0) << command->err;
}

}  // namespace
}  // namespace sealift
