#include "shared/base/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

namespace sealift::log {
namespace {

spdlog::logger& Logger() {
  static const auto logger = [] {
    auto made =
        std::make_shared<spdlog::logger>("sealift", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %v", spdlog::pattern_time_type::utc);
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *logger;
}

spdlog::level::level_enum ToSpdlog(Level level) {
  switch (level) {
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kInfo:
      return spdlog::level::info;
    case Level::kWarning:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

// Quotes a value that would break the line or the key=value shape; control characters never reach the
// terminal.
std::string Quoted(std::string_view value) {
  bool plain = !value.empty();
  for (const char c : value) plain = plain && c > ' ' && c != '"' && c != '=' && c != 0x7F;
  if (plain) return std::string(value);
  std::string out = "\"";
  for (const char c : value) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (code < 0x20 || code == 0x7F) {
      out += fmt::format("\\x{:02x}", code);
    } else {
      out.push_back(c);
    }
  }
  return out + "\"";
}

}  // namespace

void SetLevel(Level level) { Logger().set_level(ToSpdlog(level)); }

Result<Level> ParseLevel(std::string_view name) {
  if (name == "debug") return Level::kDebug;
  if (name == "info") return Level::kInfo;
  if (name == "warning") return Level::kWarning;
  if (name == "error") return Level::kError;
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("parse log level '{}': expected debug, info, warning or error", name));
}

void Write(Level level, std::string_view message, std::initializer_list<Field> fields) {
  std::string line(message);
  for (const Field& field : fields) line += fmt::format(" {}={}", field.key, Quoted(field.value));
  Logger().log(ToSpdlog(level), "{}", line);
}

}  // namespace sealift::log
