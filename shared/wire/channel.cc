#include "shared/wire/channel.h"

#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <cstdlib>
#include <string_view>

#include "shared/base/config.h"
#include "shared/base/files.h"
#include "shared/base/secret.h"

namespace sealift::wire {
namespace {

constexpr int kKeepaliveMs = 60'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
constexpr int kMinReconnectMs = 500;
constexpr int kMaxReconnectMs = 30'000;

std::string TomlString(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

}  // namespace

Result<std::shared_ptr<grpc::Channel>> OpenChannel(const ChannelOptions& options) {
  const std::size_t colon = options.address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == options.address.size()) {
    return MakeError(
        Code::kInvalidArgument, Reason::kInvalidArgument,
        fmt::format("connect to controller '{}': the address is not host:port", options.address));
  }
  SEALIFT_ASSIGN_OR_RETURN(const auto credentials, MakeChannelCredentials(options.ca_pem, options.identity));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kMinReconnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  // An address is where the operator said, never what a proxy variable in the environment says.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // One pool a channel: two identities to one address must never share a connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (!options.server_name.empty()) arguments.SetSslTargetNameOverride(options.server_name);
  return grpc::CreateCustomChannel(options.address, credentials, arguments);
}

std::unique_ptr<grpc::ClientContext> MakeContext(std::chrono::milliseconds timeout) {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + timeout);
  return context;
}

std::filesystem::path DefaultProfilePath() {
  if (const char* config = std::getenv("XDG_CONFIG_HOME"); config != nullptr && *config == '/') {
    return std::filesystem::path(config) / "sealift/profile.toml";
  }
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home == nullptr ? "/" : home) / ".config/sealift/profile.toml";
}

Result<Profile> LoadProfile(const std::filesystem::path& path) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, 64 << 10));
  ConfigReader config = ConfigReader::Parse(text, path.string());
  const std::filesystem::path folder = path.parent_path();
  Profile profile;
  profile.address = config.RequiredString("address");
  // An absolute path on the right replaces the folder.
  profile.ca = folder / config.RequiredString("ca");
  profile.certificate = folder / config.RequiredString("cert");
  profile.key = folder / config.RequiredString("key");
  profile.server_name = config.String("server_name", "");
  SEALIFT_RETURN_IF_ERROR(config.Finish());
  return profile;
}

std::string SerializeProfile(const Profile& profile) {
  std::string out = fmt::format("address = {}\nca = {}\ncert = {}\nkey = {}\n", TomlString(profile.address),
                                TomlString(profile.ca.string()), TomlString(profile.certificate.string()),
                                TomlString(profile.key.string()));
  if (!profile.server_name.empty()) out += fmt::format("server_name = {}\n", TomlString(profile.server_name));
  return out;
}

Result<std::shared_ptr<grpc::Channel>> OpenChannel(const Profile& profile) {
  ChannelOptions options;
  options.address = profile.address;
  options.server_name = profile.server_name;
  SEALIFT_ASSIGN_OR_RETURN(options.ca_pem, ReadTextFile(profile.ca));
  SEALIFT_ASSIGN_OR_RETURN(options.identity.certificate_chain, ReadTextFile(profile.certificate));
  SEALIFT_RETURN_IF_ERROR(CheckSecretFile(profile.key));
  SEALIFT_ASSIGN_OR_RETURN(options.identity.key, ReadTextFile(profile.key));
  auto channel = OpenChannel(options);
  // gRPC has its own copy by now and offers no way to wipe that one.
  WipeMemory(options.identity.key.data(), options.identity.key.size());
  return channel;
}

}  // namespace sealift::wire
