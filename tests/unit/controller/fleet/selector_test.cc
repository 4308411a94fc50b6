#include <gtest/gtest.h>

#include "controller/fleet/node.h"

namespace sealift::controller {
namespace {

TEST(SelectorTest, EveryPairMustMatch) {
  const auto selector = Selector::Parse("site=lab, rack=3");
  ASSERT_TRUE(selector.ok());
  EXPECT_EQ(selector->text(), "rack=3,site=lab");
  EXPECT_TRUE(selector->Matches({{"site", "lab"}, {"rack", "3"}, {"x", "y"}}));
  EXPECT_FALSE(selector->Matches({{"site", "lab"}}));
  EXPECT_FALSE(selector->Matches({{"site", "lab"}, {"rack", "4"}}));
}

TEST(SelectorTest, EmptySelectsAll) {
  for (const char* text : {"", "   "}) {
    const auto selector = Selector::Parse(text);
    ASSERT_TRUE(selector.ok());
    EXPECT_TRUE(selector->Matches({}));
  }
}

TEST(SelectorTest, NonsenseIsRefused) {
  std::string many;
  for (int i = 0; i < 17; ++i) many += (i > 0 ? ",k" : "k") + std::to_string(i) + "=v";
  for (const std::string& text :
       std::vector<std::string>{"a", "=b", "a=b,", ",a=b", "a=b,a=c", "A=b", "a=b c", "a==b", "a=b;c=d",
                                std::string("a=\0", 3), "a=" + std::string(64, 'x'), many}) {
    EXPECT_EQ(ReasonOf(Selector::Parse(text).status()), Reason::kSelectorInvalid) << text;
  }
}

}  // namespace
}  // namespace sealift::controller
