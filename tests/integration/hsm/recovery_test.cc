// Losing what stands between us and the keys: sessions, logins, the process that serves us.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "hsm/journal_verify.h"
#include "hsm/token_signer.h"
#include "shared/crypto/hash.h"
#include "tests/integration/hsm/p11_kit_server.h"
#include "tests/integration/hsm/softhsm_fixture.h"

namespace sealift::hsm {
namespace {

// Watches calls that go through p11-kit's function table, which is writable.
struct Watch {
  std::atomic<int> logins{0};
  std::atomic<int> signing{0};
  std::atomic<int> kills{0};
  std::mutex mutex;
  // Kills that hit while a C_Sign was under way, and that made it fail.
  std::set<int> hit;
  CK_C_Login login = nullptr;
  CK_C_Sign sign = nullptr;
};
Watch* watch = nullptr;

CK_RV WatchedLogin(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR* pin, CK_ULONG size) {
  ++watch->logins;
  return watch->login(session, user, pin, size);
}

CK_RV WatchedSign(CK_SESSION_HANDLE session, CK_BYTE* data, CK_ULONG data_size, CK_BYTE* signature,
                  CK_ULONG* signature_size) {
  const int before = watch->kills;
  ++watch->signing;
  const CK_RV rv = watch->sign(session, data, data_size, signature, signature_size);
  --watch->signing;
  if (const int after = watch->kills; rv != CKR_OK && after > before) {
    const std::lock_guard lock(watch->mutex);
    watch->hit.insert(after);
  }
  return rv;
}

// A token in a store of its own, seen by us only through `p11-kit server`.
class RecoveryTest : public SoftHsmTest {
 protected:
  void SetUp() override {
    SoftHsmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    SEALIFT_NEED_TOOL("p11-kit");
    SEALIFT_NEED_TOOL("setpriv");
    ASSERT_NE(P11KitClientModule(), "");
    local_ = MakeToken("remote");
    server_ = P11KitServer::ForSoftHsm(folder_.path(), store());
    uri_ = P11KitServer::Remote(local_);
  }
  void TearDown() override {
    if (api_ != nullptr) {
      api_->C_Login = watch_.login;
      api_->C_Sign = watch_.sign;
    }
    watch = nullptr;
  }
  void Open(SessionPool::Options options = {}) {
    auto token = Token::Open(uri_, options);
    ASSERT_TRUE(token.ok()) << Describe(token.status());
    token_ = *std::move(token);
  }
  void StartWatching() {
    api_ = &token_->pool()->api();
    watch_.login = api_->C_Login;
    watch_.sign = api_->C_Sign;
    watch = &watch_;
    api_->C_Login = WatchedLogin;
    api_->C_Sign = WatchedSign;
  }
  std::shared_ptr<TokenSigner> NewSigner(const std::string& label,
                                         KeyAlgorithm algorithm = KeyAlgorithm::kEcP256) {
    const auto key = token_->keys().Generate(algorithm, KeyUse::kSign, label);
    EXPECT_TRUE(key.ok()) << Describe(key.status());
    return key.ok() ? TokenSigner::Open(token_, key->key_id()).value() : nullptr;
  }

  // Of each digest in the journal; an intent without outcome counts as unfinished.
  static std::map<Bytes, std::vector<JournalOutcome>> OutcomesByDigest(const std::filesystem::path& journal) {
    std::map<std::uint64_t, Bytes> intents;
    std::map<Bytes, std::vector<JournalOutcome>> outcomes;
    const Status read = ReadJournal(journal, [&](const JournalRecord& record) {
      if (const auto* intent = std::get_if<JournalIntent>(&record.body)) {
        intents[record.sequence] = intent->digest;
        outcomes[intent->digest];
      }
      if (const auto* outcome = std::get_if<JournalOutcome>(&record.body)) {
        outcomes[intents.at(outcome->of)].push_back(*outcome);
      }
      return true;
    });
    EXPECT_TRUE(read.ok()) << Describe(read);
    return outcomes;
  }

  Watch watch_;
  CK_FUNCTION_LIST* api_ = nullptr;
  TokenUri local_;
  TokenUri uri_;
  std::unique_ptr<P11KitServer> server_;
  std::shared_ptr<Token> token_;
};

TEST_F(RecoveryTest, SurvivesTheDeathOfTheChildThatServesUs) {
  Open();
  const auto signer = NewSigner("k");
  ASSERT_TRUE(signer->SignMessage(AsBytes("a"), "test").ok());
  server_->KillChild();
  const auto again = signer->SignMessage(AsBytes("b"), "test");
  EXPECT_TRUE(again.ok()) << Describe(again.status());
  // Reads are mended too, and so is a ceremony before it makes anything.
  server_->KillChild();
  EXPECT_EQ(token_->keys().List().value().size(), 1u);
  server_->KillChild();
  EXPECT_TRUE(NewSigner("second")->SignMessage(AsBytes("c"), "test").ok());
  // A token that is opened after the loss mends the module as well.
  server_->KillChild();
  TokenUri absent = uri_;
  absent.token = "absent";
  EXPECT_EQ(ReasonOf(Token::Open(absent).status()), Reason::kHsmTokenMissing);
  EXPECT_NE(MessageOf(Token::Open(absent).status()).find("shows no such token"), std::string::npos);
}

TEST_F(RecoveryTest, TokensOfOneModuleComeThroughTogether) {
  const TokenUri other_local = MakeToken("other");
  server_->StopListener();  // SoftHSM lists its tokens when it is initialised
  server_->StartListener();
  Open();
  const auto other = Token::Open(P11KitServer::Remote(other_local));
  ASSERT_TRUE(other.ok()) << Describe(other.status());
  const auto signer = NewSigner("k");
  const auto key = (*other)->keys().Generate(KeyAlgorithm::kEcP256, KeyUse::kSign, "o").value();
  const auto second = TokenSigner::Open(*other, key.key_id()).value();
  for (int round = 0; round < 3; ++round) {
    server_->KillChild();
    std::atomic<int> good{0};
    {
      std::vector<std::jthread> threads;
      for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&, i] {
          for (int n = 0; n < 8; ++n) {
            const auto signature =
                (i % 2 == 0 ? signer : second)->SignMessage(AsBytes(std::to_string(n)), "test");
            EXPECT_TRUE(signature.ok()) << Describe(signature.status());
            if (signature.ok()) ++good;
          }
        });
      }
    }
    EXPECT_EQ(good, 32) << "round " << round;
  }
}

TEST_F(RecoveryTest, AnAbsentServerIsReportedByNameAndItsReturnIsEnough) {
  Open({.repair_timeout = std::chrono::milliseconds(100)});
  const auto signer = NewSigner("k");
  server_->KillChild();
  server_->StopListener();
  std::filesystem::remove(server_->socket());
  const Status away = signer->SignMessage(AsBytes("a"), "release 7").status();
  EXPECT_EQ(away.code(), Code::kUnavailable);
  EXPECT_EQ(ReasonOf(away), Reason::kHsmTokenMissing);
  for (const char* part : {"release 7", "token 'remote'", "C_SignInit: CKR_DEVICE_ERROR", "shows no token"}) {
    EXPECT_NE(MessageOf(away).find(part), std::string::npos) << part << " in " << MessageOf(away);
  }
  server_->StartListener();
  const auto back = signer->SignMessage(AsBytes("b"), "test");
  EXPECT_TRUE(back.ok()) << Describe(back.status());
}

TEST_F(RecoveryTest, ACallWaitsForAListenerThatIsRestarted) {
  Open({.repair_timeout = std::chrono::seconds(20)});
  const auto signer = NewSigner("k");
  server_->KillChild();
  server_->StopListener();
  std::filesystem::remove(server_->socket());
  std::atomic<bool> returned{false};
  Result<Bytes> signature = Bytes();
  std::jthread caller([&] {
    signature = signer->SignMessage(AsBytes("a"), "test");
    returned = true;
  });
  EXPECT_FALSE(Eventually([&] { return returned.load(); }, std::chrono::milliseconds(300)));
  server_->StartListener();
  caller.join();
  EXPECT_TRUE(signature.ok()) << Describe(signature.status());
}

TEST_F(RecoveryTest, APinThatBecameWrongIsSentOnceAndNeverAgain) {
  Open();
  const auto signer = NewSigner("k");
  StartWatching();
  const auto changed = Pkcs11Tool(
      {"--token-label", "remote", "--login", "--pin", kPin, "--change-pin", "--new-pin", "another-pin-1"});
  ASSERT_EQ(changed.exit_code, 0) << changed.err;
  server_->KillChild();
  const Status refused = signer->SignMessage(AsBytes("a"), "test").status();
  EXPECT_EQ(ReasonOf(refused), Reason::kHsmPinIncorrect) << Describe(refused);
  EXPECT_EQ(watch_.logins, 1);
  EXPECT_EQ(ReasonOf(signer->SignMessage(AsBytes("b"), "test").status()), Reason::kHsmPinIncorrect);
  EXPECT_EQ(ReasonOf(token_->keys().List().status()), Reason::kHsmPinIncorrect);
  EXPECT_EQ(watch_.logins, 1);
}

TEST_F(RecoveryTest, TwentyDeathsDuringAThousandSignaturesLoseNothingSilently) {
  constexpr int kThreads = 4;
  constexpr int kEach = 250;
  constexpr int kKills = 20;
  Open();
  const auto journal_file = folder_.path() / "journal";
  auto journal = Journal::Open(journal_file).value();
  token_->RecordIn(journal);
  auto signer = NewSigner("storm", KeyAlgorithm::kRsa2048);
  ASSERT_NE(signer, nullptr);
  StartWatching();
  // Of each digest, what its caller got: the hash of a signature, or nothing.
  std::mutex told_mutex;
  std::map<Bytes, std::optional<Sha256Digest>> told;
  std::atomic<int> done{0};
  std::atomic<int> valid{0};
  std::atomic<int> reported{0};
  std::atomic<int> wrong{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int n = 0; n < kEach; ++n) {
        const Sha256Digest digest = Sha256(AsBytes(std::to_string(i) + "/" + std::to_string(n)));
        const PublicKey& key = signer->public_key();
        const auto signature =
            signer->Sign({.scheme = key.default_scheme(), .digest = digest.bytes, .intent = "storm"});
        if (!signature.ok()) {
          ++(ReasonOf(signature.status()) == Reason::kHsmTokenMissing ? reported : wrong);
        } else {
          ++(key.VerifyDigest(digest.bytes, *signature, key.default_scheme()).ok() ? valid : wrong);
        }
        {
          const std::lock_guard lock(told_mutex);
          told[ToBytes(digest.view())] =
              signature.ok() ? std::optional<Sha256Digest>(Sha256(*signature)) : std::nullopt;
        }
        ++done;
      }
    });
  }
  int kills = 0;
  for (int point = 1; point <= kKills; ++point) {
    // Spread over the run; the thousand must not be over before the last.
    ASSERT_TRUE(Eventually([&] { return done >= point * (kThreads * kEach - 100) / (kKills + 1); }));
    std::optional<pid_t> child;
    bool in_flight = false;
    for (int attempt = 0; attempt < 50 && !in_flight; ++attempt) {
      ASSERT_TRUE(Eventually([&] { return (child = server_->Child()).has_value(); }));
      // Stopped, it answers nothing: a C_Sign that is under way now stays under way.
      ASSERT_EQ(::kill(*child, SIGSTOP), 0);
      ASSERT_TRUE(Eventually([&] {
        const auto process = ReadProcessState(*child);
        return process.has_value() && process->state == 'T';
      }));
      in_flight = Eventually([&] { return watch_.signing > 0; }, std::chrono::milliseconds(20));
      if (!in_flight) ::kill(*child, SIGCONT);
    }
    ++watch_.kills;
    P11KitServer::End(*child);
    ++kills;
  }
  threads.clear();  // joins
  EXPECT_EQ(kills, kKills);
  EXPECT_EQ(done, kThreads * kEach);
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(valid + reported, kThreads * kEach);
  EXPECT_GE(watch_.hit.size(), 10u);
  // The point of mending: hardly a caller notices.
  EXPECT_GE(valid, kThreads * kEach * 9 / 10);
  // Shown by the journal too, as another reads it: each valid one with its signature, each failure as such.
  signer.reset();
  journal.reset();
  EXPECT_TRUE(VerifyJournal(journal_file, {})->findings.empty());
  const std::map<Bytes, std::vector<JournalOutcome>> recorded = OutcomesByDigest(journal_file);
  EXPECT_EQ(told.size(), static_cast<std::size_t>(kThreads * kEach));
  EXPECT_EQ(recorded.size(), told.size());
  for (const auto& [digest, signature] : told) {
    const auto found = recorded.find(digest);
    ASSERT_NE(found, recorded.end()) << "a use that the journal does not know";
    const auto ok = [](const JournalOutcome& one) { return one.result == JournalResult::kOk; };
    const auto oks = std::ranges::count_if(found->second, ok);
    EXPECT_EQ(oks, signature.has_value() ? 1 : 0);
    if (signature.has_value() && oks == 1) {
      EXPECT_EQ(std::ranges::find_if(found->second, ok)->signature, *signature);
    }
  }
  std::printf("%d kills, %zu of them under a C_Sign; %d valid signatures, %d reported failures\n", kills,
              watch_.hit.size(), valid.load(), reported.load());
}

}  // namespace
}  // namespace sealift::hsm
