// What mutual TLS costs without anything around it: the measure that enrolments are compared with.
#pragma once

#include <string>

namespace sealift::sim {

struct TlsParty {
  // PEM: the chain, the key.
  std::string chain;
  std::string key;
};

// TLS 1.3 handshakes of `client` with a server that has the same kind of identity, both sides in one thread
// over memory, each `ca_pem`'s; for `seconds` in each of `threads` threads. Handshakes per second.
double BareHandshakesPerSecond(const TlsParty& client, const TlsParty& server, const std::string& ca_pem,
                               int threads, double seconds);

}  // namespace sealift::sim
