#include "shared/escrow/recovery_key.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "shared/base/bytes.h"
#include "tests/support/status_matchers.h"

namespace sealift::escrow {
namespace {

using test::ReasonIdFrom;

std::string Text(const SecretBytes& key) { return ToText(key.ExposeSecret()); }

TEST(RecoveryKeyTest, IsEightGroupsOfSevenAndNeverTheSame) {
  std::set<std::string> seen;
  for (int i = 0; i < 50; ++i) {
    const std::string text = Text(MakeRecoveryKey());
    EXPECT_EQ(text.size(), 63u);
    EXPECT_EQ(std::ranges::count(text, '-'), 7);
    EXPECT_EQ(text.find_first_not_of("0123456789abcdefghjkmnpqrstvwxyz-"), std::string::npos) << text;
    EXPECT_EQ(Text(ReadRecoveryKey(text).value()), text);
    seen.insert(text);
  }
  EXPECT_EQ(seen.size(), 50u);
}

TEST(RecoveryKeyTest, MendsWhatPeopleType) {
  const std::string text = Text(MakeRecoveryKey());
  std::string typed;
  for (char c : text) {
    if (c == '-')
      typed += "  ";
    else if (c == '0')
      typed += 'O';
    else if (c == '1')
      typed += 'l';
    else
      typed += static_cast<char>(std::toupper(c));
  }
  EXPECT_EQ(Text(ReadRecoveryKey(" " + typed + "\n").value()), text);
}

TEST(RecoveryKeyTest, FindsEveryMistypedCharacter) {
  const std::string text = Text(MakeRecoveryKey());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '-') continue;
    std::string wrong = text;
    wrong[i] = wrong[i] == '7' ? '8' : '7';
    EXPECT_EQ(ReasonIdFrom(ReadRecoveryKey(wrong)), "RECOVERY_KEY_WRONG") << i;
  }
  for (const std::string& wrong :
       {std::string(), text.substr(1), text + "0", "u" + text.substr(1), std::string(300, '0')})
    EXPECT_EQ(ReasonIdFrom(ReadRecoveryKey(wrong)), "RECOVERY_KEY_WRONG") << wrong;
}

}  // namespace
}  // namespace sealift::escrow
