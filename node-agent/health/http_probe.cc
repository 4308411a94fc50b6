#include "node-agent/health/http_probe.h"

#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "shared/base/files.h"

namespace sealift::agent {
namespace {

using Clock = std::chrono::steady_clock;

// "HTTP/1.1 200 OK" and a little more; the rest of an answer is not read.
constexpr std::size_t kMaxStatusLine = 512;

struct AddressFree {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};

Status BadUrl(std::string_view url, std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("read URL '{}': {}", url, why));
}

class HttpProbe final : public Probe {
 public:
  HttpProbe(HttpTarget target, std::chrono::milliseconds timeout)
      : target_(std::move(target)), timeout_(timeout) {}

  Status Check() override {
    const Clock::time_point deadline = Clock::now() + timeout_;
    SEALIFT_ASSIGN_OR_RETURN(const UniqueFd connection, Connect(deadline));
    SEALIFT_RETURN_IF_ERROR(Send(connection, deadline));
    SEALIFT_ASSIGN_OR_RETURN(const std::string line, StatusLine(connection, deadline));
    // "HTTP/1.x NNN"
    const std::string_view number = std::string_view(line).substr(std::min<std::size_t>(line.size(), 9), 3);
    const bool digits = number.size() == 3 && std::all_of(number.begin(), number.end(),
                                                          [](char c) { return c >= '0' && c <= '9'; });
    if (!line.starts_with("HTTP/1.") || !digits || line[8] != ' ') return Unwell("its answer is no HTTP");
    if (number[0] == '2' || number[0] == '3') return OkStatus();
    return Unwell(fmt::format("it answers {}", number));
  }

 private:
  std::string Name() const { return fmt::format("http://{}:{}{}", target_.host, target_.port, target_.path); }
  Status Unwell(std::string_view why) const {
    return MakeError(Code::kFailedPrecondition, Reason::kHealthFailed,
                     fmt::format("ask {}: {}", Name(), why));
  }
  Status Unreachable(std::string_view call, int error) const {
    return ErrnoError(Code::kUnavailable, Reason::kPeerUnreachable, fmt::format("ask {}", Name()), call,
                      error);
  }

  // Waits until the socket is ready.
  Status Wait(const UniqueFd& fd, short events, Clock::time_point deadline) const {
    while (true) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
      pollfd ready{.fd = fd.get(), .events = events, .revents = 0};
      const int count =
          left > 0 ? ::poll(&ready, 1, static_cast<int>(std::min<std::int64_t>(left, 1 << 30))) : 0;
      if (count > 0) return OkStatus();
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return Unreachable("poll", errno);
      return MakeError(Code::kDeadlineExceeded, Reason::kTimeout,
                       fmt::format("ask {}: no answer within {} ms", Name(), timeout_.count()));
    }
  }

  Result<UniqueFd> Connect(Clock::time_point deadline) const {
    const addrinfo hints{.ai_flags = AI_NUMERICSERV, .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    addrinfo* found = nullptr;
    if (const int error = ::getaddrinfo(target_.host.c_str(), target_.port.c_str(), &hints, &found);
        error != 0) {
      return MakeError(Code::kUnavailable, Reason::kPeerUnreachable,
                       fmt::format("ask {}: {}", Name(), ::gai_strerror(error)));
    }
    const std::unique_ptr<addrinfo, AddressFree> addresses(found);
    Status last = Unreachable("getaddrinfo", ENOENT);
    for (const addrinfo* one = addresses.get(); one != nullptr; one = one->ai_next) {
      UniqueFd fd(
          ::socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, one->ai_protocol));
      if (!fd.valid()) {
        last = Unreachable("socket", errno);
        continue;
      }
      if (::connect(fd.get(), one->ai_addr, one->ai_addrlen) != 0 && errno != EINPROGRESS) {
        last = Unreachable("connect", errno);
        continue;
      }
      last = Wait(fd, POLLOUT, deadline);
      int error = 0;
      socklen_t size = sizeof(error);
      if (last.ok() && ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
      if (last.ok() && error == 0) return fd;
      if (last.ok()) last = Unreachable("connect", error);
    }
    return last;
  }

  Status Send(const UniqueFd& fd, Clock::time_point deadline) const {
    const bool six = target_.host.find(':') != std::string::npos;
    const std::string request = fmt::format(
        "GET {} HTTP/1.1\r\nHost: {}{}{}:{}\r\nUser-Agent: sealift-agent\r\nConnection: close\r\n\r\n",
        target_.path, six ? "[" : "", target_.host, six ? "]" : "", target_.port);
    std::string_view rest = request;
    while (!rest.empty()) {
      SEALIFT_RETURN_IF_ERROR(Wait(fd, POLLOUT, deadline));
      const ssize_t sent = ::send(fd.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
      if (sent < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (sent < 0) return Unreachable("send", errno);
      rest.remove_prefix(static_cast<std::size_t>(sent));
    }
    return OkStatus();
  }

  Result<std::string> StatusLine(const UniqueFd& fd, Clock::time_point deadline) const {
    std::string line;
    while (line.find('\n') == std::string::npos && line.size() < kMaxStatusLine) {
      SEALIFT_RETURN_IF_ERROR(Wait(fd, POLLIN, deadline));
      char piece[256];
      const ssize_t got = ::recv(fd.get(), piece, sizeof(piece), 0);
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (got < 0) return Unreachable("recv", errno);
      if (got == 0) break;
      line.append(piece, static_cast<std::size_t>(got));
    }
    return line.substr(0, line.find('\n'));
  }

  HttpTarget target_;
  std::chrono::milliseconds timeout_;
};

}  // namespace

Result<HttpTarget> ParseHttpTarget(std::string_view url) {
  constexpr std::string_view kScheme = "http://";
  if (!url.starts_with(kScheme)) return BadUrl(url, "it does not start with http://");
  const bool plain = std::all_of(url.begin(), url.end(), [](char c) { return c > ' ' && c < 127; });
  if (!plain || url.size() > 2000) return BadUrl(url, "it holds blanks, control characters, or is too long");
  std::string_view rest = url.substr(kScheme.size());
  const std::size_t slash = rest.find_first_of("/?#");
  std::string_view authority = rest.substr(0, slash);
  HttpTarget target{.port = "80",
                    .path = slash == std::string_view::npos ? "/" : std::string(rest.substr(slash))};
  if (target.path.front() != '/') target.path.insert(target.path.begin(), '/');
  target.path.resize(std::min(target.path.size(), target.path.find('#')));
  const bool six = authority.starts_with("[");
  const std::size_t close = six ? authority.find(']') : std::string_view::npos;
  if (six && close == std::string_view::npos) return BadUrl(url, "its address has no end");
  const std::size_t colon = authority.find(':', six ? close : 0);
  target.host = six ? authority.substr(1, close - 1) : authority.substr(0, colon);
  if (colon != std::string_view::npos) target.port = authority.substr(colon + 1);
  const bool number =
      !target.port.empty() && target.port.size() <= 5 &&
      std::all_of(target.port.begin(), target.port.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (target.host.empty() || target.host.find('@') != std::string::npos)
    return BadUrl(url, "it names no host");
  if (!number || std::stoi(target.port) < 1 || std::stoi(target.port) > 65535)
    return BadUrl(url, "its port is none");
  return target;
}

std::unique_ptr<Probe> MakeHttpProbe(HttpTarget target, std::chrono::milliseconds timeout) {
  return std::make_unique<HttpProbe>(std::move(target), timeout);
}

}  // namespace sealift::agent
