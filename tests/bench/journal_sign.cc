// How much of the token's own signing rate is left with the signing journal on. Prints ratios; exit 1 when
// the one with a bar is below it.
//
// Both sides use one SoftHSM token in turns in one process: C_SignInit and C_Sign alone against TokenSigner,
// which looks the key up, verifies every signature and has it on the disk before it leaves. The disk's own
// flush time is printed: with one signature a call and a thread, nothing can be faster than a thread's
// signature and one flush. The ratio of processor time is what is left where the disk is no hindrance.
// Callers that have several to make hand them over together (Signer::SignAll).
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <thread>
#include <vector>

#include "hsm/journal.h"
#include "hsm/softhsm.h"
#include "hsm/token_signer.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::hsm {
namespace {

constexpr double kBar = 0.9;
constexpr int kRounds = 7;
constexpr auto kRoundTime = std::chrono::milliseconds(700);
constexpr std::size_t kThreads = 4;
constexpr std::size_t kTogether = 16;

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double ProcessorSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

struct Figures {
  double per_second = 0;
  // Of all threads, for one signature.
  double processor_ms = 0;
};

// `threads` threads call `sign`, which says how many signatures it made.
Figures Run(std::size_t threads, const std::function<std::size_t(std::size_t thread)>& sign) {
  std::atomic<std::size_t> made{0};
  const double processor = ProcessorSeconds();
  const auto start = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> workers;
    for (std::size_t i = 0; i < threads; ++i) {
      workers.emplace_back([&, i] {
        while (std::chrono::steady_clock::now() - start < kRoundTime) made += sign(i);
      });
    }
  }
  const auto signatures = static_cast<double>(made);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return {.per_second = signatures / took.count(),
          .processor_ms = (ProcessorSeconds() - processor) * 1000 / signatures};
}

double FlushMilliseconds(const std::filesystem::path& path) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  const Bytes line(600, 'x');
  std::vector<double> times;
  for (int i = 0; i < 31; ++i) {
    SEALIFT_CHECK(WriteAll(fd.get(), path, line).ok());
    const auto start = std::chrono::steady_clock::now();
    SEALIFT_CHECK(::fdatasync(fd.get()) == 0);
    times.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  return Median(times);
}

class Bench {
 public:
  Bench(std::shared_ptr<Token> token, KeyAlgorithm algorithm)
      : token_(std::move(token)), rsa_(algorithm == KeyAlgorithm::kRsa2048) {
    const PublicKey key =
        token_->keys().Generate(algorithm, KeyUse::kSign, std::string(AlgorithmName(algorithm))).value();
    signer_ = TokenSigner::Open(token_, key.key_id()).value();
    request_ = {
        .scheme = key.default_scheme(), .digest = digest_.view(), .intent = "benchmark of the journal"};
    id_ = key.key_id();
    for (std::size_t i = 0; i < kThreads; ++i) sessions_.push_back(OpenSession());
  }
  ~Bench() {
    for (const auto& [session, key] : sessions_) token_->pool()->api().C_CloseSession(session);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  // The ratio of `threads` threads that hand over `together` requests at once.
  double Measure(const char* name, std::size_t threads, std::size_t together, double bar) {
    const std::vector<SigningRequest> requests(together, request_);
    std::vector<double> ratios;
    std::vector<double> processor_ratios;
    std::vector<double> bare_rates;
    std::vector<double> journal_rates;
    for (int round = 0; round < kRounds; ++round) {
      const Figures bare = Run(threads, [&](std::size_t thread) { return SignBare(sessions_[thread]); });
      const Figures journal = Run(threads, [&](std::size_t) {
        for (const auto& signature : signer_->SignAll(requests)) SEALIFT_CHECK(signature.ok());
        return requests.size();
      });
      bare_rates.push_back(bare.per_second);
      journal_rates.push_back(journal.per_second);
      ratios.push_back(journal.per_second / bare.per_second);
      processor_ratios.push_back(bare.processor_ms / journal.processor_ms);
    }
    const double ratio = Median(ratios);
    std::printf(
        "%s, %zu thread%s, %zu a call: %.0f/s, bare C_Sign %.0f/s, ratio %.2f, of processor time %.2f", name,
        threads, threads == 1 ? "" : "s", together, Median(journal_rates), Median(bare_rates), ratio,
        Median(processor_ratios));
    if (bar > 0) std::printf(" (bar %.2f) %s", bar, ratio >= bar ? "ok" : "BELOW BAR");
    std::printf("\n");
    return ratio;
  }

 private:
  using Session = std::pair<CK_SESSION_HANDLE, CK_OBJECT_HANDLE>;

  Session OpenSession() {
    SessionPool& pool = *token_->pool();
    Session session{};
    SEALIFT_CHECK(pool.api().C_OpenSession(pool.slot(), CKF_SERIAL_SESSION, nullptr, nullptr,
                                           &session.first) == CKR_OK);
    CK_OBJECT_CLASS private_key = CKO_PRIVATE_KEY;
    std::array<CK_ATTRIBUTE, 2> wanted{
        {{CKA_CLASS, &private_key, sizeof(private_key)}, {CKA_ID, id_.bytes.data(), id_.bytes.size()}}};
    CK_ULONG found = 0;
    SEALIFT_CHECK(pool.api().C_FindObjectsInit(session.first, wanted.data(), wanted.size()) == CKR_OK);
    SEALIFT_CHECK(pool.api().C_FindObjects(session.first, &session.second, 1, &found) == CKR_OK &&
                  found == 1);
    SEALIFT_CHECK(pool.api().C_FindObjectsFinal(session.first) == CKR_OK);
    return session;
  }

  std::size_t SignBare(const Session& session) {
    // As long as what TokenSigner hands over: a DigestInfo, or the digest.
    Bytes input(rsa_ ? 51 : 32, 7);
    std::array<std::uint8_t, 512> signature{};
    CK_ULONG size = signature.size();
    CK_MECHANISM mechanism{rsa_ ? CKM_RSA_PKCS : CKM_ECDSA, nullptr, 0};
    CK_FUNCTION_LIST& api = token_->pool()->api();
    SEALIFT_CHECK(api.C_SignInit(session.first, &mechanism, session.second) == CKR_OK);
    SEALIFT_CHECK(api.C_Sign(session.first, input.data(), input.size(), signature.data(), &size) == CKR_OK);
    return 1;
  }

  std::shared_ptr<Token> token_;
  const bool rsa_;
  const Sha256Digest digest_ = Sha256(AsBytes("benchmark"));
  std::shared_ptr<TokenSigner> signer_;
  SigningRequest request_;
  Sha256Digest id_;
  std::vector<Session> sessions_;
};

bool MeasureAll() {
  const TempDir folder = TempDir::Create("journal-bench").value();
  const auto pin = folder.path() / "pin";
  SEALIFT_CHECK(WriteFileAtomically(pin, AsBytes("1234567"), 0600).ok());
  const auto uri =
      CreateSoftHsmToken({.store = folder.path() / "store", .label = "bench", .pin_file = pin}).value();
  const auto token = Token::Open(uri).value();
  const auto journal = Journal::Open(folder.path() / "journal").value();
  token->RecordIn(journal);
  std::printf("one flush of the journal's disk: %.2f ms\n", FlushMilliseconds(folder.path() / "flush"));
  Bench rsa(token, KeyAlgorithm::kRsa2048);
  const bool good = rsa.Measure("RSA-2048", kThreads, kTogether, kBar) >= kBar;
  rsa.Measure("RSA-2048", kThreads, 1, 0);
  rsa.Measure("RSA-2048", 1, kTogether, 0);
  rsa.Measure("RSA-2048", 1, 1, 0);
  Bench ec(token, KeyAlgorithm::kEcP256);
  ec.Measure("P-256", kThreads, kTogether, 0);
  ec.Measure("P-256", kThreads, 1, 0);
  ec.Measure("P-256", 1, 1, 0);
  return good;
}

}  // namespace
}  // namespace sealift::hsm

int main() { return sealift::hsm::MeasureAll() ? 0 : 1; }
