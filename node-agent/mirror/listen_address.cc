#include "node-agent/mirror/listen_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>

#include <charconv>

#include "shared/base/files.h"
#include "shared/crypto/openssl.h"

namespace sealift::agent {
namespace {

const sockaddr_in& Four(const Endpoint& endpoint) {
  return *reinterpret_cast<const sockaddr_in*>(&endpoint.storage);
}
const sockaddr_in6& Six(const Endpoint& endpoint) {
  return *reinterpret_cast<const sockaddr_in6*>(&endpoint.storage);
}
bool IsFour(const Endpoint& endpoint) { return endpoint.storage.ss_family == AF_INET; }

bool IsWildcard(const Endpoint& endpoint) {
  if (IsFour(endpoint)) return Four(endpoint).sin_addr.s_addr == htonl(INADDR_ANY);
  return IN6_IS_ADDR_UNSPECIFIED(&Six(endpoint).sin6_addr) != 0;
}

std::string WithPort(const Endpoint& endpoint, std::uint16_t port) {
  const std::string host = HostOf(endpoint);
  return IsFour(endpoint) ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

}  // namespace

Result<Endpoint> ParseEndpoint(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  std::string host = text.substr(0, colon);
  const std::string digits = colon == std::string::npos ? "" : text.substr(colon + 1);
  std::uint16_t port = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  Endpoint address;
  if (parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size() && !digits.empty()) {
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
    auto* four = reinterpret_cast<sockaddr_in*>(&address.storage);
    auto* six = reinterpret_cast<sockaddr_in6*>(&address.storage);
    if (inet_pton(AF_INET, host.c_str(), &four->sin_addr) == 1) {
      four->sin_family = AF_INET;
      four->sin_port = htons(port);
      address.size = sizeof(sockaddr_in);
      return address;
    }
    if (inet_pton(AF_INET6, host.c_str(), &six->sin6_addr) == 1) {
      six->sin6_family = AF_INET6;
      six->sin6_port = htons(port);
      address.size = sizeof(sockaddr_in6);
      return address;
    }
  }
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("serve neighbours at '{}': that is no IP address with a port", text));
}

std::string HostOf(const Endpoint& endpoint) {
  char text[INET6_ADDRSTRLEN] = "";
  const void* const host = IsFour(endpoint) ? static_cast<const void*>(&Four(endpoint).sin_addr)
                                            : static_cast<const void*>(&Six(endpoint).sin6_addr);
  ::inet_ntop(endpoint.storage.ss_family, host, text, sizeof text);
  return text;
}

std::uint16_t PortOf(const Endpoint& endpoint) {
  return ntohs(IsFour(endpoint) ? Four(endpoint).sin_port : Six(endpoint).sin6_port);
}

std::string TextOf(const Endpoint& endpoint) { return WithPort(endpoint, PortOf(endpoint)); }

Result<std::string> OwnAddress(const Endpoint& bound, const std::string& towards) {
  if (!IsWildcard(bound)) return TextOf(bound);
  const std::size_t colon = towards.rfind(':');
  std::string host = towards.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_family = bound.storage.ss_family;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (colon != std::string::npos &&
      ::getaddrinfo(host.c_str(), towards.substr(colon + 1).c_str(), &hints, &found) == 0) {
    const CPtr<addrinfo, ::freeaddrinfo> list(found);
    const UniqueFd fd(::socket(bound.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    Endpoint own;
    own.size = sizeof own.storage;
    if (fd.valid() && ::connect(fd.get(), list->ai_addr, list->ai_addrlen) == 0 &&
        ::getsockname(fd.get(), own.any(), &own.size) == 0)
      return WithPort(own, PortOf(bound));
  }
  return MakeError(
      Code::kUnavailable, Reason::kListenFailed,
      fmt::format("find an address that neighbours can use: none leads to '{}'; name share.address",
                  towards));
}

}  // namespace sealift::agent
