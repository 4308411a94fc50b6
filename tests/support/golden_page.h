// A page of docs/ that is generated from a table in the code, held against it.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "shared/base/files.h"
#include "tests/support/places.h"

namespace sealift::test {

// Fails when docs/<name> is not `expected`; with SEALIFT_UPDATE_GOLDEN=1 writes it and reports the test
// skipped.
inline void CompareWithPage(const std::string& name, const std::string& expected) {
  const std::filesystem::path page = std::filesystem::path(SEALIFT_SOURCE_DIR) / "docs" / name;
  if (std::getenv("SEALIFT_UPDATE_GOLDEN") != nullptr) {
    ASSERT_TRUE(WriteFileAtomically(page, AsBytes(expected)).ok());
    GTEST_SKIP() << "wrote " << page;
  }
  const auto found = ReadTextFile(page);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(*found, expected) << "run this test with SEALIFT_UPDATE_GOLDEN=1";
}

}  // namespace sealift::test
