// The signing journal over real tokens.
#include "hsm/journal.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <thread>

#include "hsm/ceremony.h"
#include "hsm/journal_verify.h"
#include "hsm/key_ring.h"
#include "hsm/token_signer.h"
#include "shared/crypto/hash.h"
#include "tests/integration/hsm/softhsm_fixture.h"
#include "tests/support/places.h"

namespace sealift::hsm {
namespace {

class TokenJournalTest : public SoftHsmTest {
 protected:
  std::filesystem::path file() const { return folder_.path() / "signing-journal"; }
  void Open(const std::string& label) {
    token_ = Token::Open(MakeToken(label)).value();
    journal_ = Journal::Open(file()).value();
    token_->RecordIn(journal_);
  }
  std::shared_ptr<TokenSigner> NewSigner(const std::string& label,
                                         KeyAlgorithm algorithm = KeyAlgorithm::kEcP256) {
    const auto key = token_->keys().Generate(algorithm, KeyUse::kSign, label).value();
    return TokenSigner::Open(token_, key.key_id()).value();
  }
  std::vector<JournalRecord> Records() const {
    std::vector<JournalRecord> records;
    EXPECT_TRUE(ReadJournal(file(), [&](const JournalRecord& record) {
                  records.push_back(record);
                  return true;
                }).ok());
    return records;
  }

  std::shared_ptr<Token> token_;
  std::shared_ptr<Journal> journal_;
};

TEST_F(TokenJournalTest, ASignatureLeavesAfterItsRecords) {
  Open("records");
  const auto signer = NewSigner("one");
  const auto signature = signer->SignMessage(AsBytes("text"), "signing a text");
  ASSERT_TRUE(signature.ok()) << Describe(signature.status());
  const auto records = Records();
  ASSERT_EQ(records.size(), 3u);
  const auto& intent = std::get<JournalIntent>(records[1].body);
  EXPECT_EQ(intent.key_id, signer->public_key().key_id());
  EXPECT_EQ(intent.intent, "signing a text");
  EXPECT_EQ(intent.digest, ToBytes(Sha256(AsBytes("text")).view()));
  EXPECT_EQ(std::get<JournalOutcome>(records[2].body).signature, Sha256(*signature));
}

TEST_F(TokenJournalTest, AFailureIsRecordedWithItsReason) {
  Open("failures");
  const auto signer = NewSigner("one");
  const Bytes short_digest(20, 1);
  EXPECT_FALSE(
      signer->Sign({.scheme = SignatureScheme::kEcdsaSha256, .digest = short_digest, .intent = "short"})
          .ok());
  const auto records = Records();
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(std::get<JournalOutcome>(records[2].body).reason, "INVALID_ARGUMENT");
}

TEST_F(TokenJournalTest, SeveralAtOnceAreEachRecorded) {
  Open("several");
  const auto signer = NewSigner("one", KeyAlgorithm::kRsa2048);
  std::vector<Sha256Digest> digests;
  std::vector<SigningRequest> requests;
  for (int i = 0; i < 5; ++i) digests.push_back(Sha256(AsBytes(std::to_string(i))));
  for (const Sha256Digest& digest : digests) {
    requests.push_back(
        {.scheme = SignatureScheme::kRsaPkcs1Sha256, .digest = digest.view(), .intent = "one of several"});
  }
  requests[2].scheme = SignatureScheme::kEcdsaSha256;
  const auto signatures = signer->SignAll(requests);
  ASSERT_EQ(signatures.size(), 5u);
  for (std::size_t i = 0; i < 5; ++i) {
    ASSERT_EQ(signatures[i].ok(), i != 2);
    if (i == 2) continue;
    EXPECT_TRUE(signer->public_key()
                    .VerifyDigest(digests[i].view(), *signatures[i], SignatureScheme::kRsaPkcs1Sha256)
                    .ok());
  }
  const auto report = VerifyJournal(file(), {}).value();
  EXPECT_EQ(report.uses.begin()->second.ok, 4u);
  EXPECT_EQ(report.uses.begin()->second.failed, 1u);
}

TEST_F(TokenJournalTest, OnAFullDiskNothingIsSigned) {
  Open("full");
  const auto signer = NewSigner("one");
  ASSERT_TRUE(signer->SignMessage(AsBytes("a"), "fits").ok());
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit full{std::filesystem::file_size(file()) + 10, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &full), 0);
  const auto refused = signer->SignMessage(AsBytes("b"), "does not fit");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(ReasonOf(refused.status()), Reason::kJournalUnwritable);
  EXPECT_TRUE(signer->SignMessage(AsBytes("c"), "fits again").ok());
  const auto report = VerifyJournal(file(), {}).value();
  EXPECT_TRUE(report.findings.empty());
  EXPECT_EQ(report.uses.begin()->second.ok, 2u);
}

// --- a set of keys

TEST_F(TokenJournalTest, ARingRecordsInItsFolderAndSignsCheckpointsWhereItCan) {
  std::vector<std::string> arguments;
  for (const Group group : AllGroups()) {
    const std::string name(GroupName(group));
    arguments.push_back(name + "=" + MakeToken("set-" + name).Text());
  }
  const auto keys = folder_.path() / "keys";
  ASSERT_TRUE(InitialiseKeySet({.set = "demo",
                                .folder = keys,
                                .tokens = OpenTokens(arguments).value(),
                                .controller_names = {"DNS:localhost"},
                                .now = SystemClock().Now()},
                               [](const std::string&) {})
                  .ok());
  const JournalVerifyOptions options{
      .keys = {PublicKey::FromPem(*ReadTextFile(keys / "journal.pub.pem")).value()}};
  const auto verify = [&] { return VerifyJournal(keys / "journal", options).value(); };
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "keys.journal"));
  EXPECT_TRUE(verify().findings.empty());
  EXPECT_EQ(verify().proven_up_to + 1, verify().records);
  const std::uint64_t after_ceremony = verify().proven_up_to;

  // A build host: it cannot sign checkpoints, and the file says so by ending without one.
  {
    const auto ring = KeyRing::Open(keys, {arguments.at(1)}).value();
    ASSERT_TRUE(ring->SignerFor("db").value()->SignMessage(AsBytes("x"), "by the build host").ok());
    EXPECT_EQ(ring->journal()->Checkpoint().value()->sequence, after_ceremony);
    EXPECT_GT(ring->journal()->Head().value().sequence, after_ceremony);
  }
  EXPECT_TRUE(verify().findings.empty());
  EXPECT_EQ(verify().proven_up_to, after_ceremony);

  // The daemon: handshakes by a reference are counted, everything else recorded; covered when it ends.
  {
    const auto ring = KeyRing::Open(keys, {arguments.at(2)}).value();
    RegisterPkcs11Resolver();
    const auto key = LoadKeyReference(*ReadTextFile(keys / "controller-tls.key.pem"));
    ASSERT_TRUE(key.ok()) << Describe(key.status());
    const EvpMdCtxPtr context(EVP_MD_CTX_new());
    std::array<unsigned char, 256> signature{};
    std::size_t size = signature.size();
    ASSERT_EQ(EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key->get()), 1);
    ASSERT_EQ(EVP_DigestSign(context.get(), signature.data(), &size, signature.data(), 32), 1);
    ASSERT_TRUE(ring->SignerFor("tuf-snapshot").value()->SignMessage(AsBytes("x"), "by the daemon").ok());
    // A handshake by any other key would be recorded singly.
    const Sha256Digest digest = Sha256(AsBytes("y"));
    ASSERT_TRUE(ring->SignerFor("node-ca")
                    .value()
                    ->Sign({.scheme = SignatureScheme::kEcdsaSha256,
                            .digest = digest.view(),
                            .intent = "posing as a handshake",
                            .tls_handshake = true})
                    .ok());
  }
  // The one before keeps the signer, and with it the token.
  RegisterPkcs11Resolver();
  const JournalReport report = verify();
  EXPECT_TRUE(report.findings.empty());
  EXPECT_EQ(report.proven_up_to + 1, report.records);
  EXPECT_EQ(report.tls_handshakes, 1u);
  const std::string text = *ReadTextFile(keys / "journal");
  EXPECT_EQ(text.find("tls handshake"), std::string::npos);
  EXPECT_NE(text.find("posing as a handshake"), std::string::npos);
}

TEST_F(TokenJournalTest, AJournalInUseIsNamedBeforeAnythingIsSigned) {
  std::ofstream(file()) << "";
  const UniqueFd other(::open(file().c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(flock(other.get(), LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(ReasonOf(Journal::Open(file()).status()), Reason::kJournalInUse);
  ASSERT_EQ(flock(other.get(), LOCK_UN), 0);
  EXPECT_TRUE(Journal::Open(file()).ok());
}

// --- killed while it signs (tests/support/journal_writer_main.cc)

TEST_F(SoftHsmTest, EverySignatureOfAKilledProgramIsInItsJournal) {
  const TokenUri uri = MakeToken("killed");
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "uri", AsBytes(uri.Text())).ok());
  ASSERT_TRUE(Token::Open(uri).value()->keys().Generate(KeyAlgorithm::kEcP256, KeyUse::kSign, "k").ok());
  std::vector<std::string> left;
  constexpr int kRuns = 12;
  for (int run = 0; run < kRuns; ++run) {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, writer.get(), STDOUT_FILENO);
    std::string program = SEALIFT_BIN_DIR "/journal_writer";
    std::string folder = folder_.path().string();
    std::array<char*, 3> argv{program.data(), folder.data(), nullptr};
    pid_t child = -1;
    ASSERT_EQ(posix_spawn(&child, program.c_str(), &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    ASSERT_TRUE(writer.Close().ok());
    std::string received;
    std::array<char, 4096> buffer{};
    bool killed = false;
    const std::size_t enough = static_cast<std::size_t>(65 * (1 + run * 5));
    for (ssize_t got = 0; (got = read(reader.get(), buffer.data(), buffer.size())) > 0;) {
      received.append(buffer.data(), static_cast<std::size_t>(got));
      if (received.size() > enough + 200 && !killed) killed = kill(child, SIGKILL) == 0;
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << received;
    std::istringstream lines(received);
    for (std::string line; std::getline(lines, line);) {
      if (line.size() == 64 && line.find(' ') == std::string::npos) left.push_back(line);
    }
    const auto report = VerifyJournal(folder_.path() / "journal", {});
    ASSERT_TRUE(report.ok()) << Describe(report.status());
    ASSERT_TRUE(report->findings.empty()) << report->findings.front().message;
  }
  ASSERT_TRUE(Journal::Open(folder_.path() / "journal").ok());
  const std::string text = *ReadTextFile(folder_.path() / "journal");
  for (const std::string& signature : left) {
    EXPECT_NE(text.find("\"signature_sha256\":\"" + signature + "\""), std::string::npos) << signature;
  }
  const auto report = VerifyJournal(folder_.path() / "journal", {}).value();
  EXPECT_EQ(report.open, 0u);
  EXPECT_GE(left.size(), static_cast<std::size_t>(5 * kRuns));
  EXPECT_GE(report.uses.begin()->second.ok, left.size());
}

}  // namespace
}  // namespace sealift::hsm
