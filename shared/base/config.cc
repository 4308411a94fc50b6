#include "shared/base/config.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <optional>
#include <set>
#include <sstream>

namespace sealift {

struct ConfigReader::State {
  toml::table table;
  std::string source;
  std::set<std::string> used;
  std::vector<std::string> problems;

  toml::node_view<toml::node> At(std::string_view path) {
    used.insert(std::string(path));
    return table.at_path(path);
  }

  // Every leaf must have been asked for, or lie below a path that was.
  void FindUnknown(const toml::table& from, const std::string& prefix) {
    for (const auto& [key, node] : from) {
      const std::string path =
          prefix.empty() ? std::string(key.str()) : prefix + "." + std::string(key.str());
      if (used.count(path) != 0) continue;
      if (const auto* inner = node.as_table()) {
        FindUnknown(*inner, path);
      } else {
        problems.push_back(path + ": unknown setting");
      }
    }
  }
};

ConfigReader::ConfigReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
ConfigReader::ConfigReader(ConfigReader&&) noexcept = default;
ConfigReader& ConfigReader::operator=(ConfigReader&&) noexcept = default;
ConfigReader::~ConfigReader() = default;

ConfigReader ConfigReader::Parse(std::string_view text, std::string_view source) {
  auto state = std::make_unique<State>();
  state->source = std::string(source);
  try {
    state->table = toml::parse(text, source);
  } catch (const toml::parse_error& error) {
    state->problems.push_back(
        fmt::format("line {}: {}", error.source().begin.line, std::string(error.description())));
  }
  return ConfigReader(std::move(state));
}

std::string ConfigReader::RequiredString(std::string_view path) {
  const auto node = state_->At(path);
  if (!node) {
    Problem(path, "required");
    return {};
  }
  const auto value = node.value_exact<std::string>();
  if (!value.has_value() || value->empty()) Problem(path, "expected a text that is not empty");
  return value.value_or("");
}

std::string ConfigReader::String(std::string_view path, std::string_view fallback) {
  const auto node = state_->At(path);
  if (!node) return std::string(fallback);
  const auto value = node.value_exact<std::string>();
  if (!value.has_value()) Problem(path, "expected a text");
  return value.value_or("");
}

std::int64_t ConfigReader::Integer(std::string_view path, std::int64_t fallback, std::int64_t min,
                                   std::int64_t max) {
  const auto node = state_->At(path);
  if (!node) return fallback;
  const auto value = node.value_exact<std::int64_t>();
  if (!value.has_value() || *value < min || *value > max) {
    Problem(path, fmt::format("expected a whole number from {} to {}", min, max));
    return fallback;
  }
  return *value;
}

bool ConfigReader::Boolean(std::string_view path, bool fallback) {
  const auto node = state_->At(path);
  if (!node) return fallback;
  const auto value = node.value_exact<bool>();
  if (!value.has_value()) Problem(path, "expected true or false");
  return value.value_or(fallback);
}

std::vector<std::string> ConfigReader::Strings(std::string_view path) {
  std::vector<std::string> values;
  const auto node = state_->At(path);
  if (!node) return values;
  const auto* array = node.as_array();
  if (array == nullptr) {
    Problem(path, "expected a list of texts");
    return values;
  }
  for (const auto& item : *array) {
    if (const auto value = item.value_exact<std::string>()) {
      values.push_back(*value);
    } else {
      Problem(path, "expected texts only");
    }
  }
  return values;
}

std::map<std::string, std::string> ConfigReader::StringMap(std::string_view path) {
  std::map<std::string, std::string> values;
  const auto node = state_->At(path);
  if (!node) return values;
  const auto* inner = node.as_table();
  if (inner == nullptr) {
    Problem(path, "expected a table of texts");
    return values;
  }
  for (const auto& [key, item] : *inner) {
    if (const auto value = item.value_exact<std::string>()) {
      values.emplace(std::string(key.str()), *value);
    } else {
      Problem(fmt::format("{}.{}", path, std::string(key.str())), "expected a text");
    }
  }
  return values;
}

void ConfigReader::Problem(std::string_view path, std::string_view what) {
  state_->problems.push_back(fmt::format("{}: {}", path, what));
}

Status ConfigReader::Finish() {
  state_->FindUnknown(state_->table, "");
  if (state_->problems.empty()) return OkStatus();
  return MakeError(
      Code::kInvalidArgument, Reason::kConfigInvalid,
      fmt::format("load configuration '{}': {}", state_->source, fmt::join(state_->problems, "; ")));
}

}  // namespace sealift
