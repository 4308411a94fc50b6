// What an image says of itself: index, manifest and configuration, of both forms.
#include "controller/source/image.h"
#include "shared/crypto/hash.h"

using namespace sealift;
using namespace sealift::build;

// The input is several documents, a line each. Digests of "@N" are put in for the N-th, so that the fuzzer
// need not find them.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view text = AsText(ByteView(data, size));
  Tree files;
  files.PutFile("oci-layout", AsBytes(R"({"imageLayoutVersion":"1.0.0"})"));
  std::vector<std::string> digests;
  std::string document;
  for (int i = 0; i < 8 && !text.empty(); ++i) {
    const std::size_t end = text.find('\n');
    document = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    for (std::size_t n = 0; n < digests.size(); ++n) {
      const std::string mark = "@" + std::to_string(n);
      for (std::size_t at = document.find(mark); at != std::string::npos; at = document.find(mark, at + 64))
        document.replace(at, mark.size(), digests[n]);
    }
    digests.push_back(Sha256(AsBytes(document)).hex());
    files.PutFile("blobs/sha256/" + digests.back(), AsBytes(document));
  }
  files.PutFile("index.json", AsBytes(document));
  files.PutFile("manifest.json", AsBytes(document));
  for (const char* name : {"", "os"}) {
    static_cast<void>(OciLayers(files, name));
    static_cast<void>(DockerLayers(files, name));
  }
  return 0;
}
