#include "node-agent/mirror/share_request.h"

#include <fmt/format.h>

#include <charconv>

namespace sealift::agent {
namespace {

constexpr std::string_view kBegin = "GET /objects/";
constexpr std::string_view kRange = "Range: bytes=";
constexpr std::size_t kHex = 64;

Status Bad(std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("read a neighbour's request: {}", why));
}

}  // namespace

Result<ShareRequest> ParseShareRequest(std::string_view head) {
  if (head.size() > kMaxShareRequestBytes || !head.ends_with("\r\n\r\n")) return Bad("it has no end");
  ShareRequest request;
  const std::string_view line = head.substr(0, head.find("\r\n"));
  // The folder, a slash, the name, the protocol.
  if (!line.starts_with(kBegin) || line.size() != kBegin.size() + 3 + kHex + 9 ||
      !line.ends_with(" HTTP/1.1"))
    return Bad("it asks for no object");
  const std::string_view folder = line.substr(kBegin.size(), 2);
  const std::string_view name = line.substr(kBegin.size() + 3, kHex);
  if (line[kBegin.size() + 2] != '/' || !name.starts_with(folder)) return Bad("it asks for no object");
  SEALIFT_ASSIGN_OR_RETURN(request.digest, Sha256Digest::FromHex(name));
  if (request.digest.hex() != name) return Bad("it asks for no object");
  std::string_view rest = head.substr(line.size() + 2);
  bool ranged = false;
  while (!rest.starts_with("\r\n")) {
    const std::size_t end = rest.find("\r\n");
    std::string_view field = rest.substr(0, end);
    rest.remove_prefix(end + 2);
    if (!field.starts_with(kRange)) continue;
    field.remove_prefix(kRange.size());
    const auto parsed = std::from_chars(field.data(), field.data() + field.size(), request.offset);
    if (ranged || parsed.ec != std::errc() ||
        std::string_view(parsed.ptr, field.data() + field.size()) != "-")
      return Bad("its range is malformed");
    ranged = true;
  }
  if (rest.size() != 2) return Bad("it asks for more than one thing");
  return request;
}

}  // namespace sealift::agent
