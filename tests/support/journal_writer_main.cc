// The program that a test kills: signs with three threads until then, and prints the hash of each signature
// that it got.
//
//   journal_writer FOLDER    FOLDER/uri names the token; its first key signs, FOLDER/journal records
#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "hsm/journal.h"
#include "hsm/token.h"
#include "hsm/token_signer.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/key_reference.h"

namespace sealift::hsm {
namespace {

Status SignForEver(const std::filesystem::path& folder) {
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(folder / "uri"));
  SEALIFT_ASSIGN_OR_RETURN(const TokenUri uri, TokenUri::Parse(text));
  SEALIFT_ASSIGN_OR_RETURN(const auto token, Token::Open(uri));
  SEALIFT_ASSIGN_OR_RETURN(const auto journal, Journal::Open(folder / "journal"));
  token->RecordIn(journal);
  SEALIFT_ASSIGN_OR_RETURN(const auto keys, token->keys().List());
  SEALIFT_ASSIGN_OR_RETURN(const auto id, Sha256Digest::FromBytes(keys.front().id));
  SEALIFT_ASSIGN_OR_RETURN(const auto signer, TokenSigner::Open(token, id));
  std::vector<std::jthread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (int n = 0;; ++n) {
        const auto signature = signer->SignMessage(AsBytes(std::to_string(n)), "until killed");
        if (!signature.ok()) _exit(4);
        const std::string line = Sha256(*signature).hex() + "\n";
        if (::write(STDOUT_FILENO, line.data(), line.size()) < 0) _exit(5);
      }
    });
  }
  return OkStatus();
}

}  // namespace
}  // namespace sealift::hsm

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const sealift::Status status = sealift::hsm::SignForEver(argv[1]);
  std::fprintf(stderr, "journal_writer: %s\n", sealift::Describe(status).c_str());
  return 1;
}
