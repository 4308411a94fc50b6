// TOML configuration that reports every problem at once, each with its path.
//
//   ConfigReader config = ConfigReader::Parse(text, "controller.toml");
//   settings.listen = config.String("listen.fleet", "127.0.0.1:7443");
//   SEALIFT_RETURN_IF_ERROR(config.Finish());
//
// Not thread-safe. An unknown key is a problem too: a misspelt setting must not be ignored.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace sealift {

class ConfigReader {
 public:
  // A syntax error is a problem like others, told by Finish.
  static ConfigReader Parse(std::string_view text, std::string_view source);
  ConfigReader(ConfigReader&&) noexcept;
  ConfigReader& operator=(ConfigReader&&) noexcept;
  ~ConfigReader();

  std::string RequiredString(std::string_view path);
  std::string String(std::string_view path, std::string_view fallback);
  std::int64_t Integer(std::string_view path, std::int64_t fallback, std::int64_t min, std::int64_t max);
  bool Boolean(std::string_view path, bool fallback);
  std::vector<std::string> Strings(std::string_view path);
  // A table of strings, such as labels.
  std::map<std::string, std::string> StringMap(std::string_view path);
  // A problem that the caller found, e.g. an address that does not parse.
  void Problem(std::string_view path, std::string_view what);

  // Errors: INVALID_ARGUMENT/CONFIG_INVALID naming every problem, "; " between them.
  Status Finish();

 private:
  struct State;
  explicit ConfigReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sealift
