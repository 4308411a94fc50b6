#include "node-agent/mirror/connection.h"

#include <fmt/format.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace sealift::agent {
namespace {

using Clock = std::chrono::steady_clock;

struct AddressFree {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};

Status Unreachable(const HttpUrl& url, std::string_view call, int error) {
  return ErrnoError(Code::kUnavailable, Reason::kPeerUnreachable,
                    fmt::format("fetch from {}", url.Authority()), call, error);
}

Status WaitFor(const HttpUrl& url, int fd, short events, Connection::Deadline deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd ready{.fd = fd, .events = events, .revents = 0};
    const int count =
        left > 0 ? ::poll(&ready, 1, static_cast<int>(std::min<std::int64_t>(left, 1 << 30))) : 0;
    if (count > 0) return OkStatus();
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Unreachable(url, "poll", errno);
    return MakeError(Code::kDeadlineExceeded, Reason::kTimeout,
                     fmt::format("fetch from {}: nothing came in time", url.Authority()));
  }
}

// OpenSSL's own socket BIO writes without MSG_NOSIGNAL: a peer that leaves would end the process.
int WriteQuietly(BIO* bio, const char* bytes, int size) {
  int fd = -1;
  BIO_ctrl(bio, BIO_C_GET_FD, 0, &fd);
  BIO_clear_retry_flags(bio);
  const ssize_t sent = ::send(fd, bytes, static_cast<std::size_t>(size), MSG_NOSIGNAL);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(bio);
  return static_cast<int>(sent);
}

const BIO_METHOD* QuietSocket() {
  static const BIO_METHOD* const method = [] {
    const BIO_METHOD* const socket = BIO_s_socket();
    BIO_METHOD* const quiet = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "quiet socket");
    SEALIFT_CHECK(quiet != nullptr);
    BIO_meth_set_write(quiet, WriteQuietly);
    BIO_meth_set_read(quiet, BIO_meth_get_read(socket));
    BIO_meth_set_ctrl(quiet, BIO_meth_get_ctrl(socket));
    BIO_meth_set_create(quiet, BIO_meth_get_create(socket));
    BIO_meth_set_destroy(quiet, BIO_meth_get_destroy(socket));
    return quiet;
  }();
  return method;
}

class PlainConnection final : public Connection {
 public:
  PlainConnection(HttpUrl url, UniqueFd fd) : url_(std::move(url)), fd_(std::move(fd)) {}

  Status Send(std::string_view bytes, Deadline deadline) override {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0 && errno != EAGAIN) return Unreachable(url_, "send", errno);
      if (sent < 0) {
        SEALIFT_RETURN_IF_ERROR(WaitFor(url_, fd_.get(), POLLOUT, deadline));
        continue;
      }
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return OkStatus();
  }

  Result<std::size_t> Receive(std::span<std::uint8_t> into, Deadline deadline) override {
    while (true) {
      const ssize_t got = ::recv(fd_.get(), into.data(), into.size(), 0);
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return Unreachable(url_, "recv", errno);
      SEALIFT_RETURN_IF_ERROR(WaitFor(url_, fd_.get(), POLLIN, deadline));
    }
  }

  int fd() const { return fd_.get(); }
  const HttpUrl& url() const { return url_; }

 private:
  HttpUrl url_;
  UniqueFd fd_;
};

class TlsConnection final : public Connection {
 public:
  TlsConnection(std::unique_ptr<PlainConnection> plain, SslContextPtr context)
      : plain_(std::move(plain)), context_(std::move(context)), ssl_(SSL_new(context_.get())) {
    BIO* const bio = BIO_new(QuietSocket());
    SEALIFT_CHECK(ssl_ != nullptr && bio != nullptr);
    BIO_int_ctrl(bio, BIO_C_SET_FD, BIO_NOCLOSE, plain_->fd());
    SSL_set_bio(ssl_.get(), bio, bio);
  }

  Status Handshake(Deadline deadline) {
    const std::string& host = plain_->url().host;
    X509_VERIFY_PARAM* parameters = SSL_get0_param(ssl_.get());
    if (X509_VERIFY_PARAM_set1_ip_asc(parameters, host.c_str()) != 1) {
      // SSL_set_tlsext_host_name, without its cast.
      std::string name = host;
      SSL_ctrl(ssl_.get(), SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, name.data());
      SSL_set1_host(ssl_.get(), host.c_str());
    }
    return ShakeHands(deadline, SSL_connect);
  }

  // Whoever it is says so by its certificate, not by its address. `role`: SSL_connect or SSL_accept.
  Result<NodePeer> HandshakeWithNode(Deadline deadline, int (*role)(SSL*)) {
    SEALIFT_RETURN_IF_ERROR(ShakeHands(deadline, role));
    return PeerOf(ssl_.get());
  }

  Status Send(std::string_view bytes, Deadline deadline) override {
    while (!bytes.empty()) {
      SEALIFT_ASSIGN_OR_RETURN(const int sent, Until(deadline, [&] {
                                 return SSL_write(ssl_.get(), bytes.data(), static_cast<int>(bytes.size()));
                               }));
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return OkStatus();
  }
  Result<std::size_t> Receive(std::span<std::uint8_t> into, Deadline deadline) override {
    SEALIFT_ASSIGN_OR_RETURN(const int got, Until(deadline, [&] {
                               return SSL_read(ssl_.get(), into.data(), static_cast<int>(into.size()));
                             }));
    return static_cast<std::size_t>(got);
  }

 private:
  Status ShakeHands(Deadline deadline, int (*role)(SSL*)) {
    return Until(deadline, [&] { return role(ssl_.get()); }).status();
  }
  // 0 at the end of the stream.
  template <typename Step>
  Result<int> Until(Deadline deadline, const Step& step) {
    while (true) {
      ERR_clear_error();
      const int result = step();
      if (result > 0) return result;
      const int error = SSL_get_error(ssl_.get(), result);
      if (error == SSL_ERROR_ZERO_RETURN) return 0;
      if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) return Failed();
      const short events = error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
      SEALIFT_RETURN_IF_ERROR(WaitFor(plain_->url(), plain_->fd(), events, deadline));
    }
  }
  Status Failed() const {
    char text[256] = "the connection ended";
    if (const unsigned long error = ERR_get_error(); error != 0) ERR_error_string_n(error, text, sizeof text);
    ERR_clear_error();
    return MakeError(Code::kUnavailable, Reason::kMirrorFailed,
                     fmt::format("fetch from {} by TLS: {}", plain_->url().Authority(), text));
  }

  // The SSL uses the others until its end.
  std::unique_ptr<PlainConnection> plain_;
  SslContextPtr context_;
  SslPtr ssl_;
};

Result<UniqueFd> Dial(const HttpUrl& url, Connection::Deadline deadline) {
  const addrinfo hints{.ai_flags = AI_NUMERICSERV, .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(url.host.c_str(), url.port.c_str(), &hints, &found); error != 0) {
    return MakeError(Code::kUnavailable, Reason::kPeerUnreachable,
                     fmt::format("fetch from {}: {}", url.Authority(), ::gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, AddressFree> addresses(found);
  Status last = Unreachable(url, "getaddrinfo", ENOENT);
  for (const addrinfo* one = addresses.get(); one != nullptr; one = one->ai_next) {
    UniqueFd fd(::socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, one->ai_protocol));
    if (!fd.valid()) {
      last = Unreachable(url, "socket", errno);
      continue;
    }
    if (::connect(fd.get(), one->ai_addr, one->ai_addrlen) != 0 && errno != EINPROGRESS) {
      last = Unreachable(url, "connect", errno);
      continue;
    }
    last = WaitFor(url, fd.get(), POLLOUT, deadline);
    int error = 0;
    socklen_t size = sizeof error;
    if (last.ok() && ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    if (last.ok() && error == 0) return fd;
    if (last.ok()) last = Unreachable(url, "connect", error);
  }
  return last;
}

}  // namespace

Result<std::unique_ptr<Connection>> Connect(const HttpUrl& url, const std::string& ca_file,
                                            Connection::Deadline deadline) {
  SEALIFT_ASSIGN_OR_RETURN(UniqueFd fd, Dial(url, deadline));
  auto plain = std::make_unique<PlainConnection>(url, std::move(fd));
  if (!url.tls) return plain;
  SslContextPtr context(SSL_CTX_new(TLS_client_method()));
  SEALIFT_CHECK(context != nullptr);
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  const int loaded = ca_file.empty() ? SSL_CTX_set_default_verify_paths(context.get())
                                     : SSL_CTX_load_verify_file(context.get(), ca_file.c_str());
  if (loaded != 1) {
    ERR_clear_error();
    return MakeError(Code::kUnavailable, Reason::kMirrorFailed,
                     fmt::format("fetch from {} by TLS: its CA cannot be read", url.Authority()));
  }
  auto tls = std::make_unique<TlsConnection>(std::move(plain), std::move(context));
  SEALIFT_RETURN_IF_ERROR(tls->Handshake(deadline));
  return tls;
}

Result<std::unique_ptr<Connection>> ConnectToNode(const HttpUrl& url, const NodeTls& own,
                                                  const std::string& node_cas, const std::string& node_id,
                                                  Connection::Deadline deadline) {
  SEALIFT_ASSIGN_OR_RETURN(SslContextPtr context, MakeNodeTls(own, node_cas));
  SEALIFT_ASSIGN_OR_RETURN(UniqueFd fd, Dial(url, deadline));
  auto tls = std::make_unique<TlsConnection>(std::make_unique<PlainConnection>(url, std::move(fd)),
                                             std::move(context));
  SEALIFT_ASSIGN_OR_RETURN(const NodePeer peer, tls->HandshakeWithNode(deadline, SSL_connect));
  if (peer.node_id == node_id) return tls;
  return MakeError(
      Code::kUnavailable, Reason::kMirrorFailed,
      fmt::format("fetch from {}: it is node {}, not {}", url.Authority(), peer.node_id, node_id));
}

Result<Visitor> ReceiveNode(UniqueFd accepted, const HttpUrl& from, SslContextPtr context,
                            Connection::Deadline deadline) {
  auto tls = std::make_unique<TlsConnection>(std::make_unique<PlainConnection>(from, std::move(accepted)),
                                             std::move(context));
  SEALIFT_ASSIGN_OR_RETURN(NodePeer peer, tls->HandshakeWithNode(deadline, SSL_accept));
  return Visitor{.connection = std::move(tls), .peer = std::move(peer)};
}

}  // namespace sealift::agent
