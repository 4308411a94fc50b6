#include "controller/api/audit_text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace sealift::controller {
namespace {

TEST(AuditTextTest, IsOneLineOfWholeCharacters) {
  EXPECT_EQ(AuditLine("reset \xc3\xbc of node"), "reset \xc3\xbc of node");
  EXPECT_EQ(AuditLine("a\nb\tc\x7f"), "a b c ");
  // Cut where a character ends.
  const std::string cut = AuditLine(std::string(kMaxAuditText - 1, 'x') + "\xc3\xbc");
  EXPECT_EQ(cut, std::string(kMaxAuditText - 1, 'x') + "...");
  for (const char* broken : {"\xc3", "x\xff\xfe", "\xed\xa0\x80", "\xf4\x90\x80\x80"}) {
    const std::string line = AuditLine(broken);
    EXPECT_NO_THROW((void)nlohmann::json(line).dump()) << "no valid UTF-8";
  }
}

}  // namespace
}  // namespace sealift::controller
