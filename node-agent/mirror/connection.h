// A TCP connection to a mirror, with TLS where asked for, that never waits beyond a deadline.
//
// Belongs to one thread.
#pragma once

#include <chrono>
#include <memory>
#include <span>

#include "node-agent/mirror/http_message.h"
#include "node-agent/mirror/node_tls.h"
#include "shared/base/bytes.h"
#include "shared/base/files.h"
#include "shared/base/status.h"

namespace sealift::agent {

class Connection {
 public:
  using Deadline = std::chrono::steady_clock::time_point;
  virtual ~Connection() = default;
  // Errors: UNAVAILABLE/PEER_UNREACHABLE; DEADLINE_EXCEEDED/TIMEOUT.
  virtual Status Send(std::string_view bytes, Deadline deadline) = 0;
  // At least one byte; 0 at the end. Errors: the same.
  virtual Result<std::size_t> Receive(std::span<std::uint8_t> into, Deadline deadline) = 0;
};

// Certificates of https are checked against `ca_file`, or the system's where it is empty. Content is proven
// by signed digests whatever the certificate says. Errors: UNAVAILABLE/PEER_UNREACHABLE,
// DEADLINE_EXCEEDED/TIMEOUT, UNAVAILABLE/MIRROR_FAILED for TLS.
Result<std::unique_ptr<Connection>> Connect(const HttpUrl& url, const std::string& ca_file,
                                            Connection::Deadline deadline);

// To a neighbour, with this node's own certificate (node_tls.h): it has to prove that it is `node_id`.
// Errors: those of Connect and MakeNodeTls.
Result<std::unique_ptr<Connection>> ConnectToNode(const HttpUrl& url, const NodeTls& own,
                                                  const std::string& node_cas, const std::string& node_id,
                                                  Connection::Deadline deadline);

// A neighbour that came, once it has proven who it is.
struct Visitor {
  std::unique_ptr<Connection> connection;
  NodePeer peer;
};
// `accepted`: a non-blocking socket. `from`: its address, for messages. `context`: of MakeNodeTls; used by
// this thread alone. Errors: as ConnectToNode.
Result<Visitor> ReceiveNode(UniqueFd accepted, const HttpUrl& from, SslContextPtr context,
                            Connection::Deadline deadline);

}  // namespace sealift::agent
