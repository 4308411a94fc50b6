#include "controller/tuf_client/http.h"

#include <curl/curl.h>
#include <fmt/format.h>

namespace sealift::tuf_client {
namespace {

struct Transfer {
  CURL* curl;
  std::uint64_t max_bytes;
  const ByteSink& sink;
  std::uint64_t received = 0;
  bool too_large = false;
  bool refused = false;
};

// curl_write_callback: anything but the whole size ends the transfer.
std::size_t TakeBody(char* data, std::size_t unit, std::size_t count, void* context) {
  Transfer& transfer = *static_cast<Transfer*>(context);
  const std::size_t size = unit * count;
  transfer.received += size;
  if (transfer.received > transfer.max_bytes) {
    transfer.too_large = true;
    return 0;
  }
  if (!transfer.sink(AsBytes(std::string_view(data, size)))) {
    transfer.refused = true;
    return 0;
  }
  return size;
}

Status Failed(const std::string& url, Code code, Reason reason, std::string_view cause) {
  return MakeError(code, reason, fmt::format("fetch '{}': {}", url, cause));
}

Status Judge(CURLcode result, const Transfer& transfer, const std::string& url, const char* error) {
  if (transfer.too_large) {
    return Failed(url, Code::kInvalidArgument, Reason::kTufTooLarge,
                  fmt::format("it is longer than {} bytes", transfer.max_bytes));
  }
  if (transfer.refused) {
    return Failed(url, Code::kCancelled, Reason::kCancelled, "what arrives cannot be used");
  }
  if (result == CURLE_OPERATION_TIMEDOUT) {
    double connected = 0;
    curl_easy_getinfo(transfer.curl, CURLINFO_CONNECT_TIME, &connected);
    if (connected > 0) {
      return Failed(url, Code::kUnavailable, Reason::kTransferTooSlow, "the other side sends too slowly");
    }
  }
  if (result == CURLE_HTTP_RETURNED_ERROR) {
    long answer = 0;
    curl_easy_getinfo(transfer.curl, CURLINFO_RESPONSE_CODE, &answer);
    const std::string cause = fmt::format("the server answers {}", answer);
    if (answer == 403 || answer == 404) {
      return Failed(url, Code::kNotFound, Reason::kFileUnreadable, cause);
    }
    return Failed(url, Code::kUnavailable, Reason::kPeerUnreachable, cause);
  }
  if (result == CURLE_OK) return OkStatus();
  return Failed(url, Code::kUnavailable, Reason::kPeerUnreachable,
                *error != '\0' ? error : curl_easy_strerror(result));
}

}  // namespace

struct HttpReader::Handle {
  CURL* curl = nullptr;
};

HttpReader::HttpReader(HttpLimits limits) : handle_(std::make_unique<Handle>()), limits_(limits) {
  curl_global_init(CURL_GLOBAL_DEFAULT);
  handle_->curl = curl_easy_init();
  SEALIFT_CHECK(handle_->curl != nullptr);
}

HttpReader::~HttpReader() { curl_easy_cleanup(handle_->curl); }

Status HttpReader::Read(const std::string& url, std::uint64_t max_bytes, const ByteSink& sink) {
  CURL* const curl = handle_->curl;
  char error[CURL_ERROR_SIZE] = "";
  Transfer transfer{.curl = curl, .max_bytes = max_bytes, .sink = sink};
  // Drops the options of the last transfer; the connection stays.
  curl_easy_reset(curl);
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, static_cast<long>(limits_.max_redirects));
  curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  // A role may be called "..", which is no step up.
  curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, static_cast<long>(limits_.connect_seconds));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, static_cast<long>(limits_.minimum_bytes_per_second));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, static_cast<long>(limits_.stall_seconds));
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "sealift-tuf/" SEALIFT_VERSION);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &TakeBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  return Judge(curl_easy_perform(curl), transfer, url, error);
}

}  // namespace sealift::tuf_client
