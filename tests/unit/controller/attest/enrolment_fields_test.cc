// Every field and every length of a valid enrolment, changed one at a time, against the real stores. The
// machine's TPM is a program (tests/support/software_machine.h); swtpm has its turn in the integration tests.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "shared/base/log.h"
#include "tests/unit/controller/attest/enrolment_world.h"

namespace sealift::controller {
namespace {

using test::SoftwareMachine;
using test::TpmMaker;
using ::testing::IsSubsetOf;

const std::set<std::string> kOfCertificate{"EK_CERTIFICATE_INVALID", "EK_CERTIFICATE_MISMATCH"};
const std::set<std::string> kOfCertify{"CERTIFY_MALFORMED", "CERTIFY_NONCE_STALE", "CERTIFY_NAME_MISMATCH",
                                       "CERTIFY_SIGNATURE_INVALID"};
const std::set<std::string> kOfQuote{
    "QUOTE_MALFORMED",       "QUOTE_MAGIC_WRONG",     "QUOTE_TYPE_WRONG",        "QUOTE_NONCE_STALE",
    "QUOTE_SELECTION_WRONG", "QUOTE_DIGEST_MISMATCH", "QUOTE_SIGNATURE_INVALID", "QUOTE_CLOCK_BACKWARDS"};
const std::set<std::string> kOfAttestationKey{"TPM_KEY_MALFORMED", "AK_UNSUITABLE",
                                              "CREDENTIAL_NOT_ACTIVATED"};
const std::set<std::string> kOfTlsKey{"TPM_KEY_MALFORMED", "TLS_KEY_UNSUITABLE", "CERTIFY_NAME_MISMATCH"};
const std::set<std::string> kOfEndorsementKey{"TPM_KEY_MALFORMED", "EK_UNSUITABLE", "EK_CERTIFICATE_MISMATCH",
                                              "CREDENTIAL_NOT_ACTIVATED"};

class EnrolmentFieldsTest : public ::testing::TestWithParam<KeyType>, protected EnrolmentWorld {
 protected:
  EnrolmentFieldsTest() : EnrolmentWorld(GetParam()) {}

  void SetUp() override {
    // Each refusal is a warning, and there are thousands of them.
    log::SetLevel(log::Level::kError);
    ASSERT_TRUE(Prepare());
  }
  void TearDown() override { log::SetLevel(log::Level::kInfo); }
  // Making RSA keys' certificates and challenges takes longer; the places that are looked at are the same.
  static std::size_t Step() { return GetParam() == KeyType::kRsa ? 5 : 1; }
  std::string Begin(const Spoil& spoil) { return Enrol(spoil, nullptr); }
  std::string Complete(const SpoilProof& spoil) { return Enrol(nullptr, spoil); }

  // Reasons that a bit flipped in each byte of a field leads to.
  std::set<std::string> Flips(const std::function<Bytes&(EnrolmentOffer&)>& field) {
    std::set<std::string> reasons;
    EnrolmentOffer offer = Offer();
    const std::size_t size = field(offer).size();
    for (std::size_t at = 0; at < size; at += Step())
      reasons.insert(
          Begin([&](EnrolmentOffer& o) { field(o)[at] ^= static_cast<std::uint8_t>(1u << at % 8); }));
    return reasons;
  }
  std::set<std::string> FlipsOfProof(const std::function<Bytes&(EnrolmentProof&)>& field) {
    std::set<std::string> reasons;
    bool more = true;
    for (std::size_t at = 0; more; at += Step()) {
      const std::string reason = Complete([&](EnrolmentProof& proof) {
        Bytes& bytes = field(proof);
        // Signatures and requests vary in length by a byte or two.
        more = at + Step() < bytes.size();
        bytes[std::min(at, bytes.size() - 1)] ^= static_cast<std::uint8_t>(1u << at % 8);
      });
      reasons.insert(reason);
    }
    return reasons;
  }
  // The same for each length but its own.
  std::set<std::string> LengthsOfProof(const std::function<Bytes&(EnrolmentProof&)>& field) {
    std::set<std::string> reasons;
    for (const int change : {-1000, -100, -20, -2, -1, 1, 20, 1000}) {
      reasons.insert(Complete([&](EnrolmentProof& proof) {
        Bytes& bytes = field(proof);
        const auto size = static_cast<int>(bytes.size()) + change;
        bytes.resize(static_cast<std::size_t>(std::max(size, 0)), 0);
      }));
    }
    return reasons;
  }
};

TEST_P(EnrolmentFieldsTest, AnUnchangedEnrolmentIsIssued) {
  EXPECT_EQ(Enrol(nullptr, nullptr), "issued");
  EXPECT_EQ(issuer_.issued, 1);
}

TEST_P(EnrolmentFieldsTest, EachByteOfTheMakersCertificates) {
  for (const std::size_t index : {0u, 1u}) {
    const auto field = [&](EnrolmentOffer& offer) -> Bytes& { return offer.ek_certificate_chain.at(index); };
    EXPECT_THAT(Flips(field), IsSubsetOf(kOfCertificate)) << index;
  }
  EXPECT_EQ(issuer_.issued, 0);
}

TEST_P(EnrolmentFieldsTest, EachLengthOfTheMakersCertificates) {
  using Chain = std::vector<Bytes>;
  struct Case {
    const char* what;
    std::function<void(Chain&)> change;
    const char* reason;
  };
  const std::vector<Case> cases{
      {"leaf cut", [](Chain& c) { c[0].pop_back(); }, "EK_CERTIFICATE_INVALID"},
      {"leaf halved", [](Chain& c) { c[0].resize(c[0].size() / 2); }, "EK_CERTIFICATE_INVALID"},
      {"leaf empty", [](Chain& c) { c[0].clear(); }, "EK_CERTIFICATE_INVALID"},
      {"issuer cut", [](Chain& c) { c[1].pop_back(); }, "EK_CERTIFICATE_INVALID"},
      {"issuer empty", [](Chain& c) { c[1].clear(); }, "EK_CERTIFICATE_INVALID"},
      {"issuer missing", [](Chain& c) { c.pop_back(); }, "EK_CERTIFICATE_INVALID"},
      {"leaf missing", [](Chain& c) { c.erase(c.begin()); }, "EK_CERTIFICATE_MISMATCH"},
      {"other order", [](Chain& c) { std::swap(c[0], c[1]); }, "EK_CERTIFICATE_MISMATCH"},
      {"too many", [](Chain& c) { c.resize(40, c[1]); }, "EK_CERTIFICATE_INVALID"},
      {"of another TPM", [&](Chain& c) { c = SoftwareMachine(maker_, GetParam()).certificates(); },
       "EK_CERTIFICATE_MISMATCH"},
      {"of another maker of that name",
       [&](Chain& c) {
         const TpmMaker impostor("maker");
         c = {impostor.CertifyEk(tpm::ParsePublic(machine_.EkPublic())->key), impostor.issuing_der()};
       },
       "EK_CERTIFICATE_INVALID"},
  };
  for (const Case& one : cases) {
    EXPECT_EQ(Begin([&](EnrolmentOffer& offer) { one.change(offer.ek_certificate_chain); }), one.reason)
        << one.what;
  }
  EXPECT_EQ(issuer_.issued, 0);
}

// What the keys are for stands in their areas; an attestation or TLS key's is bound whole by its name. Of the
// endorsement key the key is what counts: what else its area says is the TPM's own affair.
TEST_P(EnrolmentFieldsTest, EachByteOfThePublicAreas) {
  EXPECT_THAT(Flips([](EnrolmentOffer& o) -> Bytes& { return o.ak_public; }), IsSubsetOf(kOfAttestationKey));
  EXPECT_THAT(Flips([](EnrolmentOffer& o) -> Bytes& { return o.tls_public; }), IsSubsetOf(kOfTlsKey));
  EXPECT_EQ(issuer_.issued, 0);
  // Size, type, name's hash; attributes and policy (42 bytes from the sixth) come after.
  const std::size_t key_from = 2 + 2 + 2 + 4 + 2 + 32;
  EnrolmentOffer offer = Offer();
  std::set<std::string> reasons, template_reasons;
  for (std::size_t at = 0; at < offer.ek_public.size(); ++at) {
    const std::string reason = Begin([&](EnrolmentOffer& o) { o.ek_public[at] ^= 1; });
    const bool attributes_or_policy = at >= 6 && at < key_from && at != 10 && at != 11;
    (attributes_or_policy ? template_reasons : reasons).insert(reason);
  }
  EXPECT_THAT(reasons, IsSubsetOf(kOfEndorsementKey));
  template_reasons.erase("issued");
  EXPECT_THAT(template_reasons, IsSubsetOf(kOfEndorsementKey));
  const auto nodes = stores_->nodes().FindByEk(machine_.EkDigest());
  ASSERT_TRUE(nodes.ok() && nodes->has_value());
  EXPECT_EQ((*nodes)->ek_digest, machine_.EkDigest());
}

TEST_P(EnrolmentFieldsTest, EachLengthOfThePublicAreas) {
  for (const auto field :
       {&EnrolmentOffer::ek_public, &EnrolmentOffer::ak_public, &EnrolmentOffer::tls_public}) {
    for (const bool longer : {false, true}) {
      EXPECT_EQ(Begin([&](EnrolmentOffer& o) {
                  if (longer) {
                    (o.*field).push_back(0);
                  } else {
                    (o.*field).pop_back();
                  }
                }),
                "TPM_KEY_MALFORMED");
    }
    EXPECT_EQ(Begin([&](EnrolmentOffer& o) { (o.*field).clear(); }), "TPM_KEY_MALFORMED");
    EXPECT_EQ(Begin([&](EnrolmentOffer& o) { (o.*field).assign(2, 0); }), "TPM_KEY_MALFORMED");
    EXPECT_EQ(Begin([&](EnrolmentOffer& o) { (o.*field).assign(70'000, 0xFF); }), "TPM_KEY_MALFORMED");
  }
  EXPECT_EQ(issuer_.issued, 0);
}

TEST_P(EnrolmentFieldsTest, EachByteAndLengthOfTheJoinToken) {
  const auto withdrawn = stores_->inventory().Withdraw(machine_.EkDigest());
  ASSERT_TRUE(withdrawn.ok()) << Describe(withdrawn);
  const NewJoinToken token = MakeJoinToken();
  ASSERT_TRUE(stores_->join_tokens()
                  .Create({.id = token.id,
                           .hash = token.hash,
                           .uses = 1,
                           .created = clock_.Now(),
                           .expires = clock_.Now() + std::chrono::hours(1)})
                  .ok());
  const auto with = [&](const std::string& text) {
    return Begin([&](EnrolmentOffer& offer) { offer.join_token = SecretBytes(AsBytes(text)); });
  };
  const std::string good(token.secret);
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string changed = good;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    EXPECT_EQ(with(changed), "pending JOIN_TOKEN_UNUSABLE") << at;
    EXPECT_THAT(with(good.substr(0, at)),
                ::testing::AnyOf("pending JOIN_TOKEN_UNUSABLE", "pending EK_NOT_LISTED"));
  }
  EXPECT_EQ(with(good + "0"), "pending JOIN_TOKEN_UNUSABLE");
  EXPECT_EQ(issuer_.issued, 0);
  EXPECT_EQ(with(good), "issued");
}

TEST_P(EnrolmentFieldsTest, EachByteAndLengthOfEachProof) {
  EXPECT_EQ(Complete([](auto& p) { p.session.back() = p.session.back() == '0' ? '1' : '0'; }),
            "ENROLMENT_SESSION_UNKNOWN");
  EXPECT_EQ(Complete([](auto& p) { p.session.clear(); }), "ENROLMENT_SESSION_UNKNOWN");
  for (std::size_t size = 0; size < 40; ++size) {
    EXPECT_EQ(Complete([&](auto& p) {
                Bytes secret = ToBytes(p.activated_secret.ExposeSecret());
                if (size < secret.size()) {
                  secret[size] ^= 0x10;
                } else {
                  secret.resize(size == secret.size() ? size - 1 : size);
                }
                p.activated_secret = SecretBytes(std::move(secret));
              }),
              "CREDENTIAL_NOT_ACTIVATED")
        << size;
  }
  const auto certify = [](EnrolmentProof& p) -> Bytes& { return p.certify_attest; };
  EXPECT_THAT(FlipsOfProof(certify), IsSubsetOf(kOfCertify));
  EXPECT_THAT(LengthsOfProof(certify), ::testing::ElementsAre("CERTIFY_MALFORMED"));
  const auto certify_signature = [](EnrolmentProof& p) -> Bytes& { return p.certify_signature; };
  EXPECT_THAT(FlipsOfProof(certify_signature),
              IsSubsetOf({std::string("CERTIFY_MALFORMED"), std::string("CERTIFY_SIGNATURE_INVALID")}));
  EXPECT_THAT(LengthsOfProof(certify_signature), ::testing::ElementsAre("CERTIFY_MALFORMED"));
  const auto request = [](EnrolmentProof& p) -> Bytes& { return p.csr; };
  EXPECT_THAT(FlipsOfProof(request), ::testing::ElementsAre("CSR_INVALID"));
  EXPECT_THAT(LengthsOfProof(request), ::testing::ElementsAre("CSR_INVALID"));
  const auto quote = [](EnrolmentProof& p) -> Bytes& { return p.evidence.quote.attest; };
  EXPECT_THAT(FlipsOfProof(quote), IsSubsetOf(kOfQuote));
  EXPECT_THAT(LengthsOfProof(quote), IsSubsetOf(kOfQuote));
  const auto quote_signature = [](EnrolmentProof& p) -> Bytes& { return p.evidence.quote.signature; };
  EXPECT_THAT(FlipsOfProof(quote_signature),
              IsSubsetOf({std::string("QUOTE_MALFORMED"), std::string("QUOTE_SIGNATURE_INVALID")}));
  EXPECT_THAT(LengthsOfProof(quote_signature), ::testing::ElementsAre("QUOTE_MALFORMED"));
  for (const auto& [pcr, value] : boot_.pcrs) {
    EXPECT_EQ(Complete([&](auto& p) { p.evidence.quote.pcrs[pcr].bytes[31] ^= 1; }), "QUOTE_DIGEST_MISMATCH");
    EXPECT_EQ(Complete([&](auto& p) { p.evidence.quote.pcrs.erase(pcr); }), "QUOTE_SELECTION_WRONG");
  }
  EXPECT_EQ(Complete([](auto& p) { p.evidence.quote.pcrs[23] = {}; }), "QUOTE_SELECTION_WRONG");
  EXPECT_EQ(Complete([](auto& p) { p.evidence.quote.pcrs.clear(); }), "QUOTE_SELECTION_WRONG");
  EXPECT_EQ(Complete([](auto& p) { p.evidence.event_log.clear(); }), "EVENT_LOG_MALFORMED");
  EXPECT_EQ(Complete([](auto& p) { p.evidence.event_log.pop_back(); }), "EVENT_LOG_MALFORMED");
  EXPECT_EQ(Complete([](auto& p) { p.evidence.event_log.push_back(1); }), "EVENT_LOG_MALFORMED");
  EXPECT_EQ(Complete([](auto& p) { p.evidence.event_log.resize(tpm::kMaxEventLogBytes + 1); }),
            "FILE_TOO_LARGE");
  // Each part of somebody else's exchange, whole.
  SoftwareMachine other(maker_, GetParam());
  EXPECT_EQ(Complete([&](auto& p) { p.evidence.quote = other.Quote(boot_.pcrs, Bytes(32, 1)); }),
            "QUOTE_NONCE_STALE");
  EXPECT_EQ(Complete([&](auto& p) {
              p.csr = CreateCertificateRequest("node", {}, other.tls_key(), "test").value();
            }),
            "CSR_INVALID");
  EXPECT_EQ(issuer_.issued, 0);
  EXPECT_EQ(stores_->refusals().List(std::nullopt, 10)->size(), 1u) << "and written down while there is room";
}

INSTANTIATE_TEST_SUITE_P(EndorsementKeys, EnrolmentFieldsTest,
                         ::testing::Values(KeyType::kRsa, KeyType::kEcP256),
                         [](const auto& one) { return one.param == KeyType::kRsa ? "Rsa" : "Ecc"; });

}  // namespace
}  // namespace sealift::controller
