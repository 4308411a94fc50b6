// nginx as a process of a test, on loopback.
#pragma once

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "shared/base/bytes.h"
#include "shared/base/files.h"

namespace sealift::test {

// Runs nginx in the foreground with this configuration until it goes away.
class Nginx {
 public:
  Nginx(const std::filesystem::path& folder, const std::string& http) : folder_(folder) {
    std::filesystem::create_directories(folder);
    std::ofstream(folder / "nginx.conf")
        << "daemon off; worker_processes 1; pid " << (folder / "pid").string() << "; error_log "
        << (folder / "error.log").string() << ";\nevents { worker_connections 256; }\nhttp { access_log "
        << (folder / "access.log").string() << " combined; client_body_temp_path "
        << (folder / "body").string() << "; proxy_temp_path " << (folder / "proxy").string()
        << "; fastcgi_temp_path " << (folder / "fastcgi").string() << "; uwsgi_temp_path "
        << (folder / "uwsgi").string() << "; scgi_temp_path " << (folder / "scgi").string() << ";\n"
        << http << "}\n";
    pid_ = ::fork();
    if (pid_ == 0) {
      ::execlp("nginx", "nginx", "-p", folder.c_str(), "-c", (folder / "nginx.conf").c_str(), nullptr);
      ::_exit(127);
    }
  }
  ~Nginx() {
    ::kill(pid_, SIGTERM);
    int status = 0;
    ::waitpid(pid_, &status, 0);
  }
  bool WaitUntilItListens(std::uint16_t port) const {
    for (int i = 0; i < 200; ++i) {
      const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(port);
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  }
  // Lines of the log that name the object with this status.
  int Count(const Sha256Digest& digest, const std::string& status) const {
    std::ifstream log(folder_ / "access.log");
    int count = 0;
    for (std::string line; std::getline(log, line);)
      count += line.find(digest.hex()) != std::string::npos &&
               line.find("\" " + status + " ") != std::string::npos;
    return count;
  }
  // Body bytes of the answers it gave, whatever they were.
  std::uint64_t BytesSent() const {
    std::ifstream log(folder_ / "access.log");
    std::uint64_t bytes = 0;
    for (std::string line; std::getline(log, line);) {
      // ... "GET /path HTTP/1.1" 200 1234 "-" "agent"
      const std::size_t status = line.find("\" ", line.find('"') + 1);
      if (status != std::string::npos) bytes += std::strtoull(line.c_str() + status + 6, nullptr, 10);
    }
    return bytes;
  }

 private:
  std::filesystem::path folder_;
  pid_t pid_;
};

inline std::uint16_t FreePort() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  SEALIFT_CHECK(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
  SEALIFT_CHECK(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
  return ntohs(address.sin_port);
}

}  // namespace sealift::test
