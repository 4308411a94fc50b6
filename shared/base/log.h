// Structured log lines: a fixed message and key=value fields, to stderr (the journal on a node).
//
// Levels: error = someone must act, warning = degraded, info = state change, debug = developer. Thread-safe.
// Field keys come from one list so that queries work across both daemons: node, release, slot, reason,
// attempt, peer, rpc, version, path, key, token, state, from, to, wave, ms, bytes, error.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "shared/base/status.h"

namespace sealift::log {

enum class Level { kDebug, kInfo, kWarning, kError };

struct Field {
  std::string_view key;
  std::string value;
};

void SetLevel(Level level);
// Accepts "debug", "info", "warning", "error". Errors: INVALID_ARGUMENT/INVALID_ARGUMENT.
Result<Level> ParseLevel(std::string_view name);
void Write(Level level, std::string_view message, std::initializer_list<Field> fields);

inline void Debug(std::string_view message, std::initializer_list<Field> fields = {}) {
  Write(Level::kDebug, message, fields);
}
inline void Info(std::string_view message, std::initializer_list<Field> fields = {}) {
  Write(Level::kInfo, message, fields);
}
inline void Warning(std::string_view message, std::initializer_list<Field> fields = {}) {
  Write(Level::kWarning, message, fields);
}
inline void Error(std::string_view message, std::initializer_list<Field> fields = {}) {
  Write(Level::kError, message, fields);
}

}  // namespace sealift::log
