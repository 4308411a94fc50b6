// Serves proven objects to the neighbours of this site, and to nobody else.
//
//   <folder>/<64 hex>   what is served; hard links to objects that a download has proven
//
// By TLS 1.3 with certificates of the node CA, to nodes that the controller calls neighbours in good
// standing, at a bounded number of connections, each with a deadline for every step, and a bounded rate.
// Whoever takes an object proves it again. What an earlier life left in the folder is hashed before it is
// served. docs/content.md, "Neighbours".
//
// Thread-safe. Has threads of its own; the destructor waits for the step each is at: `patience` at most, or a
// call to the controller.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "node-agent/mirror/connection.h"
#include "node-agent/mirror/rate_limit.h"
#include "node-agent/mirror/share_gate.h"
#include "node-agent/mirror/site_hints.h"
#include "shared/base/bytes.h"
#include "shared/base/files.h"
#include "shared/base/status.h"

namespace sealift::agent {

struct ShareOptions {
  // host:port to listen at; the host is an IP address. Empty: nothing is served.
  std::string listen;
  // host:port that neighbours are told; empty: the address from which the controller is reached, and the
  // port.
  std::string address;
  // host:port of the controller, to find that address.
  std::string towards;
  // Connections at once; more wait in the system's queue.
  std::size_t max_connections = 8;
  // Bytes a second of all of them together; 0: as many as go.
  std::uint64_t maximum_rate = 0;
  // Bytes kept for neighbours; the oldest objects go first.
  std::uint64_t keep_bytes = 512u << 20;
  // Everything that is kept goes when less is free on its file system.
  std::uint64_t least_free_bytes = 64u << 20;
  // How long a peer may take to prove who it is and to ask, and to take the next 64 KiB.
  std::chrono::milliseconds patience = std::chrono::seconds(10);
  // How often the controller hears again what is offered.
  std::chrono::milliseconds offer_every = std::chrono::minutes(20);
  std::chrono::milliseconds check_space_every = std::chrono::seconds(30);
};

class ShareServer {
 public:
  // Listens when it returns. Borrows `hints`. `own`: this node's certificate as it stands.
  // Errors: UNAVAILABLE/LISTEN_FAILED; INVALID_ARGUMENT; FILE_UNWRITABLE.
  static Result<std::unique_ptr<ShareServer>> Start(ShareOptions options, std::filesystem::path folder,
                                                    SiteHints& hints, std::function<NodeTls()> own);
  ~ShareServer();

  // Where it listens: host:port.
  const std::string& listening() const { return listening_; }
  // A download has proven `file` to be the object. It stays servable when the file goes, and the controller
  // is told. False: it is not kept, since it is too large or on another file system.
  bool Add(const Sha256Digest& digest, const std::filesystem::path& file);
  // Drops everything that is kept, since the space is needed.
  void MakeRoom();
  // Of all objects kept, oldest first.
  std::vector<Sha256Digest> Kept();

 private:
  struct Object {
    Sha256Digest digest;
    std::uint64_t size = 0;
  };

  ShareServer(ShareOptions options, std::filesystem::path folder, SiteHints& hints,
              std::function<NodeTls()> own)
      : options_(std::move(options)),
        folder_(std::move(folder)),
        hints_(hints),
        own_(std::move(own)),
        gate_(hints, {.most_connections = options_.max_connections}),
        limit_(options_.maximum_rate) {}
  Status Listen();
  // The threads' bodies.
  void Work(const std::stop_token& stop);
  void Upkeep(const std::stop_token& stop);

  Status Serve(UniqueFd accepted, const std::string& from, const std::stop_token& stop);
  Status SendObject(Connection& connection, const Sha256Digest& digest, std::uint64_t offset,
                    const std::stop_token& stop);
  void ProveWhatIsThere(const std::stop_token& stop);
  // False: not all were told.
  bool Offer(const std::vector<Sha256Digest>& digests);
  // Makes it one of those served, the oldest giving way. With mutex_ held.
  void Keep(const Object& object);

  const ShareOptions options_;
  const std::filesystem::path folder_;
  SiteHints& hints_;
  const std::function<NodeTls()> own_;
  ShareGate gate_;
  RateLimit limit_;
  UniqueFd listener_;
  UniqueFd wake_;
  std::string listening_;

  std::mutex mutex_;
  std::condition_variable_any changed_;
  // Guarded by mutex_.
  std::list<Object> kept_;
  std::uint64_t kept_bytes_ = 0;
  std::vector<Sha256Digest> untold_;

  // Last: they use the others.
  std::vector<std::jthread> threads_;
};

}  // namespace sealift::agent
