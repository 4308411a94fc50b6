#include "node-agent/mirror/http_message.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace sealift::agent {
namespace {

constexpr std::size_t kMaxUrlBytes = 2000;

Status BadUrl(std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, fmt::format("read URL: {}", why));
}
Status BadHead(std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kMirrorFailed, fmt::format("read answer: {}", why));
}

std::optional<std::uint64_t> Number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string Lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

Status ReadField(std::string_view name, std::string_view value, HttpHead& head) {
  if (name == "content-length") {
    const auto length = Number(value);
    if (!length || (head.length && head.length != length)) return BadHead("its length is malformed");
    head.length = length;
  } else if (name == "content-range") {
    // "bytes 100-199/200"
    if (!value.starts_with("bytes ")) return BadHead("its range is malformed");
    value.remove_prefix(6);
    head.range_start = Number(value.substr(0, value.find('-')));
    if (!head.range_start) return BadHead("its range is malformed");
    const std::size_t slash = value.find('/');
    if (slash != std::string_view::npos) head.range_total = Number(value.substr(slash + 1));
  } else if (name == "connection") {
    head.closes = head.closes || Lower(value).find("close") != std::string::npos;
  } else if (name == "transfer-encoding") {
    return BadHead("its body has no length");
  } else if (name == "location") {
    head.location = value;
  }
  return OkStatus();
}

}  // namespace

std::string HttpUrl::Authority() const {
  const bool six = host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", six ? "[" : "", host, six ? "]" : "", port);
}

std::string HttpUrl::Text() const {
  return fmt::format("{}://{}{}", tls ? "https" : "http", Authority(), path);
}

Result<HttpUrl> ParseHttpUrl(std::string_view text) {
  HttpUrl url;
  if (text.size() > kMaxUrlBytes || !std::ranges::all_of(text, [](char c) { return c > ' ' && c < 127; }))
    return BadUrl("it holds blanks, control characters, or is too long");
  if (text.starts_with("https://")) {
    url.tls = true;
  } else if (!text.starts_with("http://")) {
    return BadUrl("it does not start with http:// or https://");
  }
  std::string_view rest = text.substr(url.tls ? 8 : 7);
  rest = rest.substr(0, rest.find('#'));
  const std::size_t slash = rest.find_first_of("/?");
  const std::string_view authority = rest.substr(0, slash);
  url.path = slash == std::string_view::npos ? "/" : std::string(rest.substr(slash));
  if (url.path.front() != '/') url.path.insert(url.path.begin(), '/');
  const bool six = authority.starts_with("[");
  const std::size_t close = six ? authority.find(']') : std::string_view::npos;
  if (six && close == std::string_view::npos) return BadUrl("its address has no end");
  const std::size_t colon = authority.find(':', six ? close : 0);
  url.host = six ? authority.substr(1, close - 1) : authority.substr(0, colon);
  url.port = colon == std::string_view::npos ? (url.tls ? "443" : "80") : authority.substr(colon + 1);
  if (url.host.empty() || url.host.find_first_of("@[]") != std::string::npos)
    return BadUrl("it names no host");
  const auto port = Number(url.port);
  if (!port || *port < 1 || *port > 65535) return BadUrl("its port is none");
  return url;
}

Result<HttpUrl> Follow(const HttpUrl& from, std::string_view location) {
  if (!location.starts_with("/") || location.starts_with("//")) return ParseHttpUrl(location);
  HttpUrl base = from;
  base.path.clear();
  return ParseHttpUrl(base.Text() + std::string(location));
}

Result<HttpHead> ParseHttpHead(std::string_view text) {
  HttpHead head;
  if (text.size() > kMaxHeadBytes) return BadHead("its head is too long");
  // "HTTP/1.1 200 OK"
  const std::size_t end = text.find("\r\n");
  const std::string_view line = text.substr(0, end);
  const auto status = Number(line.substr(std::min<std::size_t>(line.size(), 9), 3));
  if (end == std::string_view::npos || !line.starts_with("HTTP/1.") || line.size() < 12 || line[8] != ' ' ||
      !status || *status < 100 || *status > 599)
    return BadHead("it is no HTTP");
  head.status = static_cast<int>(*status);
  head.closes = line.starts_with("HTTP/1.0");
  text.remove_prefix(end + 2);
  while (true) {
    const std::size_t stop = text.find("\r\n");
    if (stop == std::string_view::npos) return BadHead("its head is cut short");
    if (stop == 0) return head;
    const std::string_view field = text.substr(0, stop);
    text.remove_prefix(stop + 2);
    const std::size_t colon = field.find(':');
    if (colon == std::string_view::npos || colon == 0) return BadHead("a field is malformed");
    SEALIFT_RETURN_IF_ERROR(ReadField(Lower(field.substr(0, colon)), Trim(field.substr(colon + 1)), head));
  }
}

}  // namespace sealift::agent
