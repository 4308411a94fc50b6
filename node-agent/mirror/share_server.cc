#include "node-agent/mirror/share_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "node-agent/mirror/listen_address.h"
#include "node-agent/mirror/share_request.h"
#include "shared/base/log.h"
#include "shared/content/download.h"

namespace sealift::agent {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kBlock = 64u << 10;
constexpr int kBacklog = 64;
constexpr std::size_t kOfferedAtOnce = 256;
constexpr std::size_t kMaxObjects = 4096;
constexpr auto kRetryOffer = std::chrono::seconds(10);

Status Refused(std::string_view what) {
  return MakeError(Code::kPermissionDenied, Reason::kCertificateInvalid,
                   fmt::format("serve a neighbour: {}", what));
}

Status Unreadable(const fs::path& file) {
  return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable,
                    fmt::format("serve a neighbour from '{}'", file.string()), "read", errno);
}

Status Answer(Connection& connection, std::string_view status, std::chrono::milliseconds patience) {
  return connection.Send(fmt::format("HTTP/1.1 {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status),
                         Clock::now() + patience);
}

Result<std::string> ReadHead(Connection& connection, Connection::Deadline deadline) {
  std::string head;
  while (!head.ends_with("\r\n\r\n")) {
    Bytes buffer(kMaxShareRequestBytes + 1 - head.size());
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, connection.Receive(buffer, deadline));
    head += AsText(ByteView(buffer).first(got));
    if (got == 0 || head.size() > kMaxShareRequestBytes) break;
  }
  return head;
}

}  // namespace

Result<std::unique_ptr<ShareServer>> ShareServer::Start(ShareOptions options, fs::path folder,
                                                        SiteHints& hints, std::function<NodeTls()> own) {
  std::unique_ptr<ShareServer> server(
      new ShareServer(std::move(options), std::move(folder), hints, std::move(own)));
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(server->folder_, 0700));
  SEALIFT_RETURN_IF_ERROR(server->Listen());
  ShareServer* const raw = server.get();
  for (std::size_t i = 0; i < raw->options_.max_connections; ++i)
    raw->threads_.emplace_back([raw](const std::stop_token& stop) { raw->Work(stop); });
  raw->threads_.emplace_back([raw](const std::stop_token& stop) { raw->Upkeep(stop); });
  return server;
}

ShareServer::~ShareServer() {
  for (std::jthread& thread : threads_) thread.request_stop();
  // Never read, so that it wakes all of them.
  ::eventfd_write(wake_.get(), 1);
  threads_.clear();
}

Status ShareServer::Listen() {
  SEALIFT_ASSIGN_OR_RETURN(Endpoint address, ParseEndpoint(options_.listen));
  listener_ = UniqueFd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  const int on = 1;
  // Also at an address that the network has not given this machine yet.
  if (!listener_.valid() || !wake_.valid() ||
      ::setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::setsockopt(listener_.get(), IPPROTO_IP, IP_FREEBIND, &on, sizeof on) != 0 ||
      ::bind(listener_.get(), address.any(), address.size) != 0 || ::listen(listener_.get(), kBacklog) != 0 ||
      ::getsockname(listener_.get(), address.any(), &address.size) != 0) {
    return ErrnoError(Code::kUnavailable, Reason::kListenFailed,
                      fmt::format("serve neighbours at '{}'", options_.listen), "listen", errno);
  }
  listening_ = TextOf(address);
  return OkStatus();
}

void ShareServer::Work(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    std::array<pollfd, 2> ready{{{.fd = listener_.get(), .events = POLLIN, .revents = 0},
                                 {.fd = wake_.get(), .events = POLLIN, .revents = 0}}};
    if (::poll(ready.data(), ready.size(), -1) <= 0 || ready[0].revents == 0) continue;
    Endpoint from;
    from.size = sizeof from.storage;
    UniqueFd accepted(::accept4(listener_.get(), from.any(), &from.size, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!accepted.valid()) {
      // Without descriptors it would be asked for ever.
      if (errno != EAGAIN && errno != ECONNABORTED)
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
      continue;
    }
    try {
      const Status status = Serve(std::move(accepted), HostOf(from), stop);
      if (!status.ok()) log::Debug("a neighbour was not served", {{"error", Describe(status)}});
    } catch (const std::exception& error) {
      log::Warning("a neighbour was not served", {{"error", error.what()}});
    }
  }
}

Status ShareServer::Serve(UniqueFd accepted, const std::string& from, const std::stop_token& stop) {
  const auto deadline = Clock::now() + options_.patience;
  ShareGate::Place greeting = gate_.Greet(from);
  if (!greeting.valid()) return Refused("its address has too many connections");
  SEALIFT_ASSIGN_OR_RETURN(const std::string cas, gate_.NodeCas());
  SEALIFT_ASSIGN_OR_RETURN(SslContextPtr context, MakeNodeTls(own_(), cas));
  if (!gate_.AwaitHandshake(deadline, stop)) return Refused("there are too many handshakes");
  const HttpUrl name{.tls = true, .host = from, .port = "0", .path = "/"};
  SEALIFT_ASSIGN_OR_RETURN(const Visitor visitor,
                           ReceiveNode(std::move(accepted), name, std::move(context), deadline));
  Connection& connection = *visitor.connection;
  const ShareGate::Place seat = gate_.Seat(visitor.peer.node_id);
  if (!seat.valid()) return Answer(connection, "503 Service Unavailable", options_.patience);
  greeting = {};
  if (!gate_.Admits(visitor.peer)) return Answer(connection, "403 Forbidden", options_.patience);
  SEALIFT_ASSIGN_OR_RETURN(const std::string head, ReadHead(connection, deadline));
  const auto request = ParseShareRequest(head);
  if (!request.ok()) return Answer(connection, "400 Bad Request", options_.patience);
  return SendObject(connection, request->digest, request->offset, stop);
}

Status ShareServer::SendObject(Connection& connection, const Sha256Digest& digest, std::uint64_t offset,
                               const std::stop_token& stop) {
  std::uint64_t size = 0;
  UniqueFd file;
  const fs::path path = folder_ / digest.hex();
  {
    const std::lock_guard lock(mutex_);
    const auto found =
        std::ranges::find_if(kept_, [&](const Object& object) { return object.digest == digest; });
    // Only what was proven, whatever lies in the folder.
    if (found != kept_.end()) {
      file = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
      size = found->size;
    }
  }
  if (!file.valid()) return Answer(connection, "404 Not Found", options_.patience);
  if (offset > 0 && offset >= size) return Answer(connection, "416 Range Not Satisfiable", options_.patience);
  const std::string range =
      offset == 0 ? "" : fmt::format("Content-Range: bytes {}-{}/{}\r\n", offset, size - 1, size);
  SEALIFT_RETURN_IF_ERROR(
      connection.Send(fmt::format("HTTP/1.1 {}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n",
                                  offset == 0 ? "200 OK" : "206 Partial Content", size - offset, range),
                      Clock::now() + options_.patience));
  Bytes block(std::min(kBlock, limit_.piece_bytes()));
  while (offset < size && !stop.stop_requested()) {
    const std::size_t wanted = static_cast<std::size_t>(std::min<std::uint64_t>(block.size(), size - offset));
    const ssize_t got = ::pread(file.get(), block.data(), wanted, static_cast<off_t>(offset));
    if (got <= 0) return Unreadable(path);
    const ByteView piece = ByteView(block).first(static_cast<std::size_t>(got));
    limit_.Take(piece.size());
    SEALIFT_RETURN_IF_ERROR(connection.Send(AsText(piece), Clock::now() + options_.patience));
    offset += piece.size();
  }
  return OkStatus();
}

void ShareServer::Keep(const Object& object) {
  while (!kept_.empty() && (kept_bytes_ + object.size > options_.keep_bytes || kept_.size() >= kMaxObjects)) {
    std::error_code error;
    fs::remove(folder_ / kept_.front().digest.hex(), error);
    kept_bytes_ -= kept_.front().size;
    kept_.pop_front();
  }
  kept_.push_back(object);
  kept_bytes_ += object.size;
  untold_.push_back(object.digest);
  changed_.notify_all();
}

bool ShareServer::Add(const Sha256Digest& digest, const fs::path& file) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(file, error);
  if (error || size > options_.keep_bytes) return false;
  const std::lock_guard lock(mutex_);
  if (std::ranges::any_of(kept_, [&](const Object& object) { return object.digest == digest; })) {
    untold_.push_back(digest);
    changed_.notify_all();
    return true;
  }
  // Also what lies there and is not proven yet gives way to what is.
  const fs::path place = folder_ / digest.hex();
  fs::remove(place, error);
  fs::create_hard_link(file, place, error);
  if (error) return false;
  Keep({.digest = digest, .size = size});
  return true;
}

void ShareServer::MakeRoom() {
  const std::lock_guard lock(mutex_);
  std::error_code error;
  for (fs::directory_iterator entry(folder_, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code failed;
    fs::remove_all(entry->path(), failed);
  }
  kept_.clear();
  kept_bytes_ = 0;
  untold_.clear();
}

std::vector<Sha256Digest> ShareServer::Kept() {
  const std::lock_guard lock(mutex_);
  std::vector<Sha256Digest> digests;
  for (const Object& object : kept_) digests.push_back(object.digest);
  return digests;
}

void ShareServer::ProveWhatIsThere(const std::stop_token& stop) {
  struct Found {
    fs::file_time_type time;
    fs::path path;
  };
  std::vector<Found> found;
  std::error_code error;
  for (fs::directory_iterator entry(folder_, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code failed;
    found.push_back({entry->last_write_time(failed), entry->path()});
  }
  std::ranges::sort(found, [](const Found& a, const Found& b) { return a.time < b.time; });
  for (const Found& one : found) {
    if (stop.stop_requested()) return;
    const auto digest = Sha256Digest::FromHex(one.path.filename().string());
    const auto kept = Kept();
    if (digest.ok() && std::ranges::find(kept, *digest) != kept.end()) continue;
    const bool regular = digest.ok() && fs::is_regular_file(fs::symlink_status(one.path, error));
    const auto proven = regular ? content::HashFile(one.path, options_.keep_bytes)
                                : Result<Sha256Digest>(Refused("no object"));
    const std::lock_guard lock(mutex_);
    // Meanwhile it may have gone, or a download may have put it there.
    if (digest.ok() &&
        std::ranges::any_of(kept_, [&](const Object& object) { return object.digest == *digest; }))
      continue;
    const std::uintmax_t size = fs::file_size(one.path, error);
    if (!error && proven.ok() && *proven == *digest) {
      Keep({.digest = *digest, .size = size});
    } else {
      fs::remove_all(one.path, error);
    }
  }
}

bool ShareServer::Offer(const std::vector<Sha256Digest>& digests) {
  std::string address = options_.address;
  if (address.empty()) {
    const auto own = ParseEndpoint(listening_);
    const auto found = own.ok() ? OwnAddress(*own, options_.towards) : own.status();
    if (!found.ok()) {
      log::Debug("objects not offered", {{"error", Describe(found.status())}});
      return false;
    }
    address = *found;
  }
  for (std::size_t at = 0; at < digests.size(); at += kOfferedAtOnce) {
    const auto begin = digests.begin() + static_cast<std::ptrdiff_t>(at);
    const auto end =
        digests.begin() + static_cast<std::ptrdiff_t>(std::min(digests.size(), at + kOfferedAtOnce));
    const Status told = hints_.Offer({begin, end}, address);
    if (told.ok()) continue;
    log::Debug("objects not offered", {{"error", Describe(told)}});
    return false;
  }
  return true;
}

void ShareServer::Upkeep(const std::stop_token& stop) {
  ProveWhatIsThere(stop);
  auto check = Clock::now() + options_.check_space_every;
  auto offer_all = Clock::now() + options_.offer_every;
  auto retry = Clock::time_point();
  while (!stop.stop_requested()) {
    std::vector<Sha256Digest> untold;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_until(lock, stop, std::min(check, offer_all),
                          [&] { return !untold_.empty() && Clock::now() >= retry; });
      if (stop.stop_requested()) return;
      if (Clock::now() >= retry) untold = std::exchange(untold_, {});
    }
    if (Clock::now() >= offer_all) {
      untold = Kept();
      offer_all = Clock::now() + options_.offer_every;
    }
    if (!untold.empty() && !Offer(untold)) {
      // All of them once more, a little later.
      retry = Clock::now() + kRetryOffer;
      offer_all = std::min(offer_all, retry);
    }
    if (Clock::now() < check) continue;
    check = Clock::now() + options_.check_space_every;
    std::error_code error;
    const fs::space_info space = fs::space(folder_, error);
    if (!error && space.available < options_.least_free_bytes) MakeRoom();
  }
}

}  // namespace sealift::agent
