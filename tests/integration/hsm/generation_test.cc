// A second generation of keys in tokens of its own: what accepted the first accepts both, and either token
// may be lost.
#include "hsm/generation.h"

#include <gtest/gtest.h>

#include <fstream>

#include "hsm/attestation.h"
#include "hsm/ceremony.h"
#include "hsm/journal_verify.h"
#include "hsm/secure_boot.h"
#include "hsm/set_marker.h"
#include "shared/crypto/hash.h"
#include "shared/efi/auth_variable.h"
#include "shared/efi/authenticode.h"
#include "shared/uki/pcr_policy.h"
#include "tests/integration/hsm/generation_fixture.h"
#include "tests/support/synthetic_pe.h"
#include "tests/support/tools.h"
#include "tests/unit/shared/tuf/test_repository.h"

namespace sealift::hsm {
namespace {

using test::RunTool;

TEST_F(GenerationTest, ListsGrowAndImagesOfEitherGenerationStart) {
  ASSERT_TRUE(WriteFileAtomically(keys_ / "KEK-old.esl", Content("KEK.esl")).ok());
  const auto added = Add({"kek", "db", "pcr"}, {new_[0], new_[1]});
  ASSERT_TRUE(added.ok()) << Describe(added.status());
  EXPECT_EQ(added->keys, (std::vector<std::string>{"db-2", "kek-2", "pcr-2"}));
  for (const auto& [variable, by] : {std::pair{"KEK", "PK.esl"}, {"db", "KEK-old.esl"}}) {
    const std::string name = variable;
    EXPECT_TRUE(Accepts(name + ".auth", name, efi::kReplaceAttributes, by).ok()) << name;
    EXPECT_TRUE(Accepts("updates/" + name + "-2.auth", name, efi::kAppendAttributes, by).ok()) << name;
    EXPECT_FALSE(Accepts("updates/" + name + "-2.auth", name, efi::kReplaceAttributes, by).ok()) << name;
    const auto lists = Lists(name + ".esl");
    ASSERT_EQ(lists.size(), 2u);
    EXPECT_EQ(lists[0].entries[0].data, Content(name + ".der"));
    EXPECT_EQ(lists[1].entries[0].data, Content(name + "-2.der"));
    EXPECT_EQ(Lists("updates/" + name + "-2.esl").size(), 1u);
    // Firmware takes what is later than what it took.
    const auto time = [&](const std::string& file) {
      return efi::ParseAuthenticatedVariable(Content(file))->time;
    };
    EXPECT_GT(time(name + ".auth"), time("updates/" + name + "-2.auth"));
    SEALIFT_NEED_TOOL("sig-list-to-certs");
    const auto prefix = (folder_.path() / ("out-" + name)).string();
    EXPECT_EQ(RunTool({"sig-list-to-certs", keys_ / (name + ".esl"), prefix}).exit_code, 0);
    EXPECT_EQ(ReadFile(prefix + "-0.der").value(), Content(name + ".der"));
    EXPECT_EQ(ReadFile(prefix + "-1.der").value(), Content(name + "-2.der"));
    EXPECT_EQ(RunTool({"openssl", "x509", "-in", keys_ / (name + "-2.pem"), "-noout", "-checkend", "86400"})
                  .exit_code,
              0);
  }
  // The token decides which generation signs; --generation overrides it.
  const auto db = Lists("db.esl");
  const auto sign = [&](KeyRing& ring) {
    const auto signer = ring.SignerFor("db").value();
    return efi::SignImage(test::SyntheticPe{}.Build(), *signer, ring.CertificateFor("db")->der(), "test")
        .value()
        .bytes;
  };
  for (const auto& [tokens, generations, number] :
       {std::tuple<std::vector<std::string>, std::vector<std::string>, std::uint32_t>{{old_[1]}, {}, 1u},
        {{new_[1]}, {}, 2u},
        {{old_[1], new_[1]}, {}, 1u},
        {{old_[1], new_[1]}, {"db=2"}, 2u}}) {
    const auto ring = Ring(tokens, generations);
    EXPECT_EQ(ring->KeyFor("db").value()->generation, number);
    const auto image = efi::VerifyImage(sign(*ring), db, {});
    ASSERT_TRUE(image.ok()) << Describe(image.status());
    EXPECT_EQ(image->signer_certificate, Content(number == 1 ? "db.der" : "db-2.der"));
  }
  const auto only_old = efi::SignatureLists{db[0]};
  const auto new_ring = Ring({new_[1]});
  EXPECT_EQ(ReasonOf(efi::VerifyImage(sign(*new_ring), only_old, {}).status()), Reason::kImageSignerUnknown);
  if (test::HaveTool("sbverify")) {
    const auto image = folder_.path() / "image.efi";
    ASSERT_TRUE(WriteFileAtomically(image, sign(*new_ring)).ok());
    EXPECT_EQ(RunTool({"sbverify", "--cert", keys_ / "db-2.pem", image}).exit_code, 0);
    EXPECT_NE(RunTool({"sbverify", "--cert", keys_ / "db.pem", image}).exit_code, 0);
  }
  // A KEK of the second generation signs what machines take that hold both.
  const auto kek_two = Ring({new_[0]});
  const Bytes revoked = efi::SerializeSignatureLists(
      efi::SignatureLists{efi::Sha256SignatureList(efi::kLoaderVendor, std::vector<Sha256Digest>(1))});
  const auto update =
      SignVariableUpdate(*kek_two, {.variable = "dbx", .content = revoked, .append = true, .now = now_});
  ASSERT_TRUE(update.ok()) << Describe(update.status());
  const auto dbx = efi::SecureBootVariable("dbx", efi::kAppendAttributes).value();
  EXPECT_TRUE(efi::VerifyAuthenticatedVariable(update->auth, dbx, Lists("KEK.esl")).ok());
  EXPECT_FALSE(efi::VerifyAuthenticatedVariable(update->auth, dbx, Lists("KEK-old.esl")).ok());
}

TEST_F(GenerationTest, PcrPoliciesAreSignedByTheSecondGeneration) {
  ASSERT_TRUE(Add({"pcr"}, {new_[1]}).ok());
  const auto ring = Ring({new_[1]});
  const auto signer = ring->SignerFor("pcr").value();
  const std::vector<uki::PhasePolicy> phases = {{.phase = "", .pcr11 = Sha256(AsBytes("x"))}};
  const auto signatures = uki::SignPcrPolicies(phases, "test", *signer);
  ASSERT_TRUE(signatures.ok()) << Describe(signatures.status());
  const uki::PcrSignature& one = signatures->at("sha256").at(0);
  EXPECT_EQ(one.key_fingerprint, signer->public_key().Pkcs1Fingerprint().value());
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "policy", one.policy.view()).ok());
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "signature", one.signature).ok());
  const auto verify = [&](const std::string& key) {
    return RunTool({"openssl", "dgst", "-sha256", "-verify", keys_ / key, "-signature",
                    folder_.path() / "signature", folder_.path() / "policy"})
        .exit_code;
  };
  EXPECT_EQ(verify("tpm2-pcr-public-2.pem"), 0);
  EXPECT_NE(verify("tpm2-pcr-public.pem"), 0);
  EXPECT_EQ(ring->inventory().Generations("pcr").size(), 2u);
}

TEST_F(GenerationTest, ClientsWalkToTheNextRootAndTakeTargetsOfEitherGeneration) {
  const auto added =
      Add({"tuf-root", "tuf-targets", "tuf-snapshot", "tuf-timestamp"}, {new_[0], new_[1], new_[2]});
  ASSERT_TRUE(added.ok()) << Describe(added.status());
  const auto all = Ring({old_[0], old_[1], old_[2], new_[0], new_[1], new_[2]});
  const auto visit = [&](std::uint32_t generation) -> Result<std::uint32_t> {
    tuf::MemorySource source;
    const auto signer = [&](std::string_view role) {
      for (const InventoryKey* key : all->inventory().Generations(role)) {
        if (key->generation == generation) return all->SignerFor(*key).value();
      }
      return std::shared_ptr<Signer>();
    };
    const auto sign = [&](tuf::Role role, tuf::Envelope file) {
      const std::string name = fmt::format("tuf-{}", tuf::RoleName(role));
      EXPECT_TRUE(tuf::SignMetadata(role, file, *signer(name), "test").ok());
      return file.Serialize();
    };
    const auto listed = [](const std::string& text) {
      return tuf::MetaFile{.version = 1, .length = text.size(), .sha256 = Sha256(AsBytes(text))};
    };
    const UnixMillis later = now_ + std::chrono::hours(24);
    const std::string targets = sign(tuf::Role::kTargets, tuf::MakeEnvelope(tuf::Targets{.expires = later}));
    const std::string snapshot =
        sign(tuf::Role::kSnapshot,
             tuf::MakeEnvelope(tuf::Snapshot{.expires = later, .meta = {{"targets.json", listed(targets)}}}));
    source.files = {{"2.root.json", ToText(Content("tuf/2.root.json"))},
                    {"1.targets.json", targets},
                    {"1.snapshot.json", snapshot},
                    {"timestamp.json",
                     sign(tuf::Role::kTimestamp, tuf::MakeEnvelope(tuf::Timestamp{
                                                     .expires = later, .snapshot = listed(snapshot)}))}};
    tuf::MemoryStore store;
    const SystemClock clock;
    tuf::TufClient client(ToText(Content("tuf/1.root.json")), source, store, clock);
    SEALIFT_ASSIGN_OR_RETURN(const tuf::VerifiedTargets seen, client.Refresh());
    return seen.root_version();
  };
  for (const std::uint32_t generation : {1u, 2u}) {
    const auto root = visit(generation);
    ASSERT_TRUE(root.ok()) << generation << " " << Describe(root.status());
    EXPECT_EQ(*root, 2u);
  }
  const auto envelope = tuf::ParseEnvelope(ToText(Content("tuf/2.root.json")), tuf::kMaxRootBytes).value();
  EXPECT_EQ(envelope.signatures.size(), 2u) << "by the old root key and the new one";
  const auto second = tuf::ParseRoot(envelope).value();
  const auto first =
      tuf::ParseRoot(tuf::ParseEnvelope(ToText(Content("tuf/1.root.json")), tuf::kMaxRootBytes).value())
          .value();
  EXPECT_EQ(second.expires, first.expires);
  EXPECT_EQ(second.roles.at(tuf::Role::kRoot).threshold, 1u);
  // The first root's token burned down: the second one carries on alone.
  GenerationOptions options{
      .roles = {"tuf-targets"}, .tokens = OpenTokens({new_[1]}).value(), .expiration_days = 30, .now = now_};
  const auto alone = Ring({new_[0], new_[1]});
  const auto third = AddGeneration(*alone, options, kQuiet);
  ASSERT_TRUE(third.ok()) << Describe(third.status());
  EXPECT_EQ(third->keys, std::vector<std::string>{"tuf-targets-3"});
  const auto next = tuf::ParseEnvelope(ToText(Content("tuf/3.root.json")), tuf::kMaxRootBytes).value();
  EXPECT_TRUE(tuf::VerifyThreshold(next, second, tuf::Role::kRoot).ok());
  EXPECT_EQ(tuf::ParseRoot(next)->expires, second.expires) << "never earlier than before";
}

TEST_F(GenerationTest, CasAndTheControllerGetSiblingsThatVerify) {
  const auto added =
      Add({"node-ca", "controller-tls", "operator-ca", "journal", "orders", "escrow"}, {new_[2], new_[3]});
  ASSERT_TRUE(added.ok()) << Describe(added.status());
  const auto ring = Ring({new_[2], new_[3]});
  EXPECT_EQ(ring->CertificatesFor("node-ca")->size(), 2u);
  const auto verify = [&](const std::string& ca) {
    return RunTool({"openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname",
                    "controller.lab", "-CAfile", keys_ / ca, keys_ / "controller-tls-2.pem"})
        .exit_code;
  };
  EXPECT_EQ(verify("node-ca-2.pem"), 0);
  EXPECT_NE(verify("node-ca.pem"), 0);
  const CommandOutput names =
      RunTool({"openssl", "x509", "-in", keys_ / "controller-tls-2.pem", "-noout", "-ext", "subjectAltName"});
  EXPECT_NE(names.out.find("10.0.2.100"), std::string::npos) << names.out;
  RegisterPkcs11Resolver();
  const auto key = LoadKeyReference(ToText(Content("controller-tls-2.key.pem")));
  ASSERT_TRUE(key.ok()) << Describe(key.status());
  RegisterPkcs11Resolver();
  const auto person = SoftwareSigner::Generate(KeyType::kEcP256).value();
  const auto anna =
      IssueOperatorCertificate(*ring, {.name = "anna", .role = "viewer", .now = now_}, person->public_key());
  ASSERT_TRUE(anna.ok()) << Describe(anna.status());
  const auto cas = ring->CertificatesFor("operator-ca").value();
  EXPECT_EQ(VerifyChain(*anna, {}, cas, now_, CertificatePurpose::kClient)->anchor(), cas.at(1));
  // The second journal key signs checkpoints, and a statement shows both generations.
  const auto accounts =
      AccountForKeys(ring->inventory(), OpenTokensByGroup({old_[2], new_[2]}).value(), {}).value();
  const auto statement = MakeStatement(*ring, accounts, {}, now_, ring->SignerFor("journal")->get());
  ASSERT_TRUE(statement.ok()) << Describe(statement.status());
  const PublicKey second = PublicKey::FromPem(ToText(Content("journal-2.pub.pem"))).value();
  const auto checked = CheckStatement(*statement, second);
  ASSERT_TRUE(checked.ok()) << Describe(checked.status());
  EXPECT_EQ(checked->keys, AllRoles().size() + 6);
  EXPECT_EQ(checked->certificates, 10u);
  std::size_t held = 0;
  for (const KeyAccount& account : accounts) {
    if (account.key->role == "journal" && account.in_token == true) ++held;
  }
  EXPECT_EQ(held, 2u);
  const auto report = VerifyJournal(
      keys_ / "journal", {.keys = {second, PublicKey::FromPem(ToText(Content("journal.pub.pem"))).value()}});
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->findings.empty());
  std::ifstream lines(keys_ / "journal");
  const std::string text{std::istreambuf_iterator<char>(lines), {}};
  EXPECT_NE(text.find("\"event\":\"generated\",\"key\":\"node-ca-2\""), std::string::npos);
}

TEST_F(GenerationTest, ANewPkIsHandedOverAndTheOldOneSignsUntilItIsTaken) {
  const auto added = Add({"pk"}, {new_[0]});
  ASSERT_TRUE(added.ok()) << Describe(added.status());
  EXPECT_TRUE(Accepts("updates/PK-2.auth", "PK", efi::kReplaceAttributes, "PK.esl").ok());
  EXPECT_TRUE(Accepts("updates/pk-2/PK.auth", "PK", efi::kReplaceAttributes, "updates/PK-2.esl").ok());
  EXPECT_TRUE(Accepts("updates/pk-2/KEK.auth", "KEK", efi::kReplaceAttributes, "updates/PK-2.esl").ok());
  const std::vector<std::string> both = {old_[0], new_[0]};
  EXPECT_EQ(Ring(both)->KeyFor("pk").value()->generation, 1u);
  std::filesystem::copy_file(keys_ / "updates/pk-2/PK.esl", keys_ / "PK.esl",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(Ring(both)->KeyFor("pk").value()->generation, 2u);
  EXPECT_EQ(Ring(both, {"pk=1"})->KeyFor("pk").value()->generation, 1u);
  // Nobody guesses which PK machines hold.
  const Bytes kek = Content("KEK.esl");
  for (const auto& [name, content] :
       {std::pair<std::string, Bytes>{"damaged", Bytes(40, 1)}, {"another's", kek}}) {
    ASSERT_TRUE(WriteFileAtomically(keys_ / "PK.esl", content).ok());
    EXPECT_EQ(ReasonOf(Ring(both)->KeyFor("pk").status()), Reason::kKeySetInvalid) << name;
    EXPECT_EQ(
        ReasonOf(SignVariableUpdate(*Ring(both), {.variable = "KEK", .content = kek, .now = now_}).status()),
        Reason::kKeySetInvalid)
        << name;
    EXPECT_EQ(Ring(both, {"pk=1"})->KeyFor("pk").value()->generation, 1u) << name;
  }
  ASSERT_TRUE(std::filesystem::remove(keys_ / "PK.esl"));
  EXPECT_EQ(ReasonOf(Ring(both)->SignerFor("pk").status()), Reason::kKeySetInvalid);
}

TEST_F(GenerationTest, ADefaultIsEveryRoleOfTheTokensGroup) {
  const auto added = Add({}, {new_[1]}, {.algorithms = {{"tuf-targets", KeyAlgorithm::kEcP384}}});
  ASSERT_TRUE(added.ok()) << Describe(added.status());
  EXPECT_EQ(added->keys, (std::vector<std::string>{"db-2", "extensions-2", "pcr-2", "tuf-targets-2"}));
  EXPECT_EQ(added->inventory.Newest("tuf-targets")->algorithm, KeyAlgorithm::kEcP384);
  EXPECT_TRUE(added->inventory.Newest("db")->born_in_token);
  for (const InventoryKey& key : added->inventory.keys) {
    EXPECT_EQ(key.token_uri.find("two-release") != std::string::npos, key.generation == 2) << key.label;
  }
}

TEST_F(GenerationTest, RefusesWithoutMakingAnything) {
  const auto nothing_made = [&] {
    const auto tokens = OpenTokens(new_).value();
    for (const auto& [group, token] : tokens) {
      if (!token->keys().List()->empty()) return false;
    }
    return true;
  };
  EXPECT_EQ(ReasonOf(Add({"db"}, {new_[1]}, {.generation = 1}).status()), Reason::kKeyGenerationExists);
  EXPECT_EQ(ReasonOf(Add({"db"}, {new_[1]}, {.generation = 3}).status()), Reason::kInvalidArgument);
  EXPECT_EQ(ReasonOf(Add({"db", "db"}, {new_[1]}).status()), Reason::kInvalidArgument);
  EXPECT_EQ(ReasonOf(Add({"db"}, {new_[2]}).status()), Reason::kInvalidArgument);
  EXPECT_EQ(ReasonOf(Add({"nobody"}, {new_[1]}).status()), Reason::kInvalidArgument);
  EXPECT_EQ(ReasonOf(Add({"db"}, {new_[1]}, {.algorithms = {{"db", KeyAlgorithm::kEcP256}}}).status()),
            Reason::kKeyAlgorithmUnsupported);
  // Nobody is there to sign it in.
  old_.erase(old_.begin());
  const Status alone = Add({"db"}, {new_[1]}).status();
  EXPECT_EQ(ReasonOf(alone), Reason::kHsmKeyMissing);
  EXPECT_NE(MessageOf(alone).find("kek"), std::string::npos) << MessageOf(alone);
  EXPECT_EQ(ReasonOf(Add({"tuf-targets"}, {new_[1]}).status()), Reason::kHsmKeyMissing);
  EXPECT_TRUE(nothing_made());
  EXPECT_TRUE(Add({"extensions"}, {new_[1]}).ok()) << "nobody has to sign it in";
  EXPECT_EQ(Ring(old_)->CertificatesFor("extensions")->size(), 2u);
}

TEST_F(GenerationTest, AFailedRunCanBeMadeAgain) {
  // The list that the new certificate goes into is damaged: found once the keys are made.
  const Bytes good = Content("db.esl");
  ASSERT_TRUE(WriteFileAtomically(keys_ / "db.esl", Bytes(40, 1)).ok());
  const std::string before = ToText(Content("inventory.json"));
  const Status failed = Add({"db", "pcr"}, {new_[1]}).status();
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(MessageOf(failed).find("takes them over"), std::string::npos) << MessageOf(failed);
  EXPECT_EQ(ToText(Content("inventory.json")), before);
  EXPECT_FALSE(std::filesystem::exists(keys_ / "public/db-2.pem"));
  const auto token = OpenTokens({new_[1]})->at(Group::kRelease);
  const auto left = token->keys().List().value();
  EXPECT_EQ(left.size(), 2u);
  ASSERT_TRUE(WriteFileAtomically(keys_ / "db.esl", good).ok());
  const auto again = Add({"db", "pcr"}, {new_[1]});
  ASSERT_TRUE(again.ok()) << Describe(again.status());
  EXPECT_EQ(token->keys().List()->size(), 2u) << "the same keys";
  EXPECT_FALSE(HasSetMarker(*token->pool(), "demo:generation").value());
  EXPECT_TRUE(std::ranges::any_of(left, [&](const StoredKey& key) {
    return std::ranges::equal(key.id, again->inventory.Newest("db")->key_id.bytes);
  }));
  // A key under the next label that no run left is somebody's.
  ASSERT_TRUE(token->keys().Generate(KeyAlgorithm::kRsa2048, KeyUse::kSign, KeyLabel("demo", "db", 3)).ok());
  EXPECT_EQ(ReasonOf(Add({"db"}, {new_[1]}).status()), Reason::kHsmKeyExists);
}

}  // namespace
}  // namespace sealift::hsm
