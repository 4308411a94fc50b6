// How much of bare OpenSSL's signature verification a quote verification is. Prints ratio and bar; exit 1
// below it.
//
// A quote costs parsing, the selection, one hash over the registers and one signature check; the last should
// be nearly all of it. Both sides run in turns in one process, so a busy machine slows both.
#include <openssl/evp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <vector>

#include "shared/tpm/quote.h"
#include "tests/support/software_tpm.h"

namespace sealift {
namespace {

constexpr double kBar = 0.5;
constexpr int kRounds = 15;
constexpr int kPerRound = 200;

double SecondsFor(const std::function<bool()>& once) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kPerRound; ++i) SEALIFT_CHECK(once());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / kPerRound;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

bool Measure(const char* name, KeyType type) {
  test::SoftwareAk ak(type);
  const Bytes nonce(32, 7);
  tpm::PcrValues values;
  for (const std::uint32_t pcr : {0u, 1u, 2u, 3u, 4u, 5u, 6u, 7u, 9u, 11u, 12u, 13u, 14u}) values[pcr] = {};
  const tpm::QuoteEvidence evidence = ak.Quote(values, nonce);
  const std::array<std::uint32_t, 5> required{4, 7, 11, 12, 13};
  const tpm::Signature signature = tpm::ParseSignature(evidence.signature, Reason::kQuoteMalformed).value();
  EVP_PKEY* key = ak.area().key.evp();

  std::vector<double> ours;
  std::vector<double> bare;
  for (int round = 0; round < kRounds; ++round) {
    bare.push_back(SecondsFor([&] {
      const EvpMdCtxPtr context(EVP_MD_CTX_new());
      return EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, key) == 1 &&
             EVP_DigestVerify(context.get(), signature.bytes.data(), signature.bytes.size(),
                              evidence.attest.data(), evidence.attest.size()) == 1;
    }));
    ours.push_back(SecondsFor([&] { return tpm::VerifyQuote(evidence, ak.area(), nonce, required).ok(); }));
  }
  const double ratio = Median(bare) / Median(ours);
  std::printf("quote verification, %s: %.0f/s, bare OpenSSL %.0f/s, ratio %.2f (bar %.2f) %s\n", name,
              1 / Median(ours), 1 / Median(bare), ratio, kBar, ratio >= kBar ? "ok" : "BELOW BAR");
  return ratio >= kBar;
}

}  // namespace
}  // namespace sealift

int main() {
  const bool ecdsa = sealift::Measure("ECDSA P-256", sealift::KeyType::kEcP256);
  const bool rsa = sealift::Measure("RSA 2048", sealift::KeyType::kRsa);
  return ecdsa && rsa ? 0 : 1;
}
