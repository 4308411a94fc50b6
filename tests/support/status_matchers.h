// Reads errors in tests: EXPECT_EQ(ReasonIdFrom(result), "MALFORMED").
#pragma once

#include <string>

#include "shared/base/status.h"

namespace sealift::test {

inline std::string ReasonIdFrom(const Status& status) { return ReasonIdOf(status); }
template <typename T>
std::string ReasonIdFrom(const Result<T>& result) {
  return ReasonIdOf(result.status());
}

}  // namespace sealift::test
