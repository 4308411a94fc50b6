// A GET over plain HTTP/1.1, for services that tell their own health: any status of 200 to 399 is well.
//
// Meant for the machine's own services: no TLS, no redirects, no proxy (docs/decisions/0062).
// Thread-compatible.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "node-agent/health/health_check.h"

namespace sealift::agent {

struct HttpTarget {
  std::string host;
  std::string port;
  // With its query; at least "/".
  std::string path;
};
// "http://host[:port][/path]", IPv6 addresses in brackets. Errors: INVALID_ARGUMENT/INVALID_ARGUMENT.
Result<HttpTarget> ParseHttpTarget(std::string_view url);

// The whole exchange ends within `timeout`, name resolution aside. Errors of Check:
// UNAVAILABLE/PEER_UNREACHABLE, DEADLINE_EXCEEDED/TIMEOUT, FAILED_PRECONDITION/HEALTH_FAILED with the status.
std::unique_ptr<Probe> MakeHttpProbe(HttpTarget target, std::chrono::milliseconds timeout);

}  // namespace sealift::agent
