// Whom a node that serves lets in, and how much of it a stranger or one neighbour can take up.
//
// Every handshake costs a signature of the TPM before the other side has proven anything: they are spaced,
// and one address has at most half of the connections while it is unproven. Thread-safe.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <stop_token>
#include <string>

#include "node-agent/mirror/node_tls.h"
#include "node-agent/mirror/site_hints.h"
#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::agent {

struct ShareGateOptions {
  std::size_t most_connections = 8;
  // Handshakes: so many at once, then one for each pause.
  int burst = 16;
  std::chrono::milliseconds pause = std::chrono::milliseconds(200);
  // How long the controller's word on a certificate holds: its yes, and its yes while it does not answer,
  // and its no.
  std::chrono::milliseconds yes_life = std::chrono::seconds(60);
  std::chrono::milliseconds unanswered_life = std::chrono::minutes(10);
  std::chrono::milliseconds no_life = std::chrono::seconds(10);
};

class ShareGate {
 public:
  // Borrows `hints`.
  ShareGate(SiteHints& hints, ShareGateOptions options) : hints_(hints), options_(options) {}

  // Held for as long as a place is taken.
  class Place {
   public:
    Place() = default;
    Place(ShareGate* gate, std::map<std::string, std::size_t>* taken, std::string name)
        : gate_(gate), taken_(taken), name_(std::move(name)) {}
    Place(Place&& other) noexcept { Swap(other); }
    Place& operator=(Place&& other) noexcept {
      Swap(other);
      return *this;
    }
    ~Place();
    bool valid() const { return gate_ != nullptr; }

   private:
    void Swap(Place& other) noexcept {
      std::swap(gate_, other.gate_);
      std::swap(taken_, other.taken_);
      std::swap(name_, other.name_);
    }
    ShareGate* gate_ = nullptr;
    std::map<std::string, std::size_t>* taken_ = nullptr;
    std::string name_;
  };

  // For a connection from this address (without its port) until it has proven who it is. Not valid: it has
  // too many of them.
  Place Greet(const std::string& address);
  // For a peer that has proven who it is, while it is served. Not valid: it has two already.
  Place Seat(const std::string& node_id);
  // Until the next handshake may begin; false: the time is up or it is to stop.
  bool AwaitHandshake(std::chrono::steady_clock::time_point deadline, const std::stop_token& stop);
  // Who issues the certificates of nodes, as of ten minutes ago at most. Errors: those of the hints.
  Result<std::string> NodeCas();
  // What the controller says, or said lately.
  bool Admits(const NodePeer& peer);

 private:
  using Clock = std::chrono::steady_clock;
  struct Word {
    bool admitted = false;
    Clock::time_point since;
  };
  Place Take(std::map<std::string, std::size_t>& taken, const std::string& name, std::size_t most);

  SiteHints& hints_;
  const ShareGateOptions options_;
  std::mutex mutex_;
  std::condition_variable_any stopped_;
  // Guarded by mutex_.
  std::map<std::string, std::size_t> strangers_;
  std::map<std::string, std::size_t> neighbours_;
  Clock::time_point next_handshake_{};
  std::string node_cas_;
  Clock::time_point node_cas_since_{};
  // By the certificate's digest.
  std::map<Sha256Digest, Word> words_;
};

}  // namespace sealift::agent
