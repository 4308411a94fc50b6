// IP addresses with ports: to listen at, and to tell others.
//
// Pure but for OwnAddress; thread-safe.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "shared/base/status.h"

namespace sealift::agent {

struct Endpoint {
  sockaddr_storage storage{};
  socklen_t size = 0;
  sockaddr* any() { return reinterpret_cast<sockaddr*>(&storage); }
};

// "10.0.0.7:7445", "[::]:7445". Errors: INVALID_ARGUMENT/INVALID_ARGUMENT.
Result<Endpoint> ParseEndpoint(const std::string& text);
// As it is written.
std::string TextOf(const Endpoint& endpoint);
std::uint16_t PortOf(const Endpoint& endpoint);
// Without the port.
std::string HostOf(const Endpoint& endpoint);
// Where others reach what listens at `bound`: where that stands for every address, the one that leads to
// `towards` (host:port). Looks its name up; sends nothing. Errors: UNAVAILABLE/LISTEN_FAILED.
Result<std::string> OwnAddress(const Endpoint& bound, const std::string& towards);

}  // namespace sealift::agent
