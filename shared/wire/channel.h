// The client's side of a connection to a controller.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "shared/base/status.h"
#include "shared/wire/tls.h"

namespace sealift::wire {

inline constexpr std::chrono::milliseconds kDefaultCallTimeout = std::chrono::seconds(20);
// Of one message in either direction; content travels in pieces far below it.
inline constexpr int kMaxMessageBytes = 16 << 20;

struct ChannelOptions {
  // "host:port".
  std::string address;
  std::string ca_pem;
  TlsIdentity identity;
  // Checked against the server's certificate instead of the host in `address`; empty: the host in `address`.
  std::string server_name;
};

// Connects lazily; the channel is thread-safe and reconnects by itself.
// Errors: INVALID_ARGUMENT/CERTIFICATE_INVALID, KEY_MISMATCH, INVALID_ARGUMENT for an address without a port.
Result<std::shared_ptr<grpc::Channel>> OpenChannel(const ChannelOptions& options);

// Every call carries a deadline: a context is made here and nowhere else.
std::unique_ptr<grpc::ClientContext> MakeContext(std::chrono::milliseconds timeout = kDefaultCallTimeout);

// An operator's connection settings, as `sealift operator issue` writes them:
//   address = "controller.example:7443"
//   ca = "ca.pem"            # paths, relative to the profile's folder
//   cert = "anna.pem"
//   key = "anna-key.pem"     # PKCS#8 or a SEALIFT KEY REFERENCE; readable by its owner only
//   server_name = ""         # optional
struct Profile {
  std::string address;
  std::filesystem::path ca;
  std::filesystem::path certificate;
  std::filesystem::path key;
  std::string server_name;
};

// $XDG_CONFIG_HOME/sealift/profile.toml, else ~/.config/sealift/profile.toml.
std::filesystem::path DefaultProfilePath();
// Errors: NOT_FOUND/FILE_UNREADABLE, INVALID_ARGUMENT/CONFIG_INVALID naming every problem.
Result<Profile> LoadProfile(const std::filesystem::path& path);
std::string SerializeProfile(const Profile& profile);
// Reads the files it names. Errors: those of ReadFile, CheckSecretFile and OpenChannel.
Result<std::shared_ptr<grpc::Channel>> OpenChannel(const Profile& profile);

}  // namespace sealift::wire
