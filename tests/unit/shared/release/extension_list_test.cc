#include "shared/release/extension_list.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/status_matchers.h"

namespace sealift {
namespace {

using test::ReasonIdFrom;

ListedExtension Tools() {
  ListedExtension tools{
      .name = "tools", .version = "1.0", .size = 4096, .os_id = "debian", .os_version_id = "12"};
  tools.digest.bytes[0] = 1;
  tools.root_hash.bytes[0] = 2;
  return tools;
}

TEST(ExtensionListTest, ComesBackAsItWasWritten) {
  ListedExtension other = Tools();
  other.name = "more-tools_2.x";
  other.os_id = "_any";
  other.os_version_id.clear();
  ListedExtension configuration = Tools();
  configuration.name = "site";
  configuration.kind = ExtensionKind::kConfiguration;
  EXPECT_EQ(other.FileName(), "more-tools_2.x.raw");
  EXPECT_EQ(configuration.FileName(), "site.confext.raw");
  EXPECT_EQ(ExtensionKindOfFile(other.FileName()), other.kind);
  EXPECT_EQ(ExtensionKindOfFile(configuration.FileName()), configuration.kind);
  const std::vector<ListedExtension> list = {Tools(), other, configuration};
  const auto back = ParseExtensionList(FormatExtensionList(list));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, list);
  EXPECT_TRUE(ParseExtensionList(FormatExtensionList({}))->empty());
}

TEST(ExtensionListTest, RefusesWhatIsNotOne) {
  const auto with = [](const char* key, const nlohmann::json& value) {
    auto json = nlohmann::json::parse(FormatExtensionList({Tools()}));
    json["extensions"][0][key] = value;
    return ReasonIdFrom(ParseExtensionList(json.dump()));
  };
  EXPECT_EQ(with("more", 1), "NONE");
  EXPECT_EQ(with("name", "../x"), "EXTENSION_INVALID");
  EXPECT_EQ(with("name", ""), "EXTENSION_INVALID");
  EXPECT_EQ(with("version", "1 0"), "EXTENSION_INVALID");
  EXPECT_EQ(with("sha256", "00"), "EXTENSION_INVALID");
  EXPECT_EQ(with("root_hash", nullptr), "EXTENSION_INVALID");
  EXPECT_EQ(with("size", -1), "EXTENSION_INVALID");
  EXPECT_EQ(with("os_id", ""), "EXTENSION_INVALID");
  EXPECT_EQ(with("kind", "confext"), "NONE");
  EXPECT_EQ(with("kind", "sysext"), "EXTENSION_INVALID");
  EXPECT_EQ(with("kind", 1), "EXTENSION_INVALID");
  EXPECT_EQ(with("name", "site.confext"), "EXTENSION_INVALID");
  EXPECT_EQ(with("os_version_id", std::string(129, 'x')), "EXTENSION_INVALID");
  EXPECT_EQ(ReasonIdFrom(ParseExtensionList(FormatExtensionList({Tools(), Tools()}))), "EXTENSION_INVALID");
  EXPECT_EQ(ReasonIdFrom(ParseExtensionList(
                FormatExtensionList(std::vector<ListedExtension>(kMaxExtensions + 1, Tools())))),
            "EXTENSION_INVALID");
  for (const char* bad :
       {"", "[]", "{}", R"({"format":2,"extensions":[]})", R"({"format":1,"extensions":[1]})"})
    EXPECT_EQ(ReasonIdFrom(ParseExtensionList(bad)), "EXTENSION_INVALID") << bad;
}

TEST(ExtensionListTest, AnExtensionIsForOneOsOrForAny) {
  EXPECT_TRUE(CheckExtensionFits(Tools(), "debian", "12").ok());
  EXPECT_EQ(ReasonIdFrom(CheckExtensionFits(Tools(), "debian", "13")), "EXTENSION_INVALID");
  EXPECT_EQ(ReasonIdFrom(CheckExtensionFits(Tools(), "ubuntu", "12")), "EXTENSION_INVALID");
  ListedExtension loose = Tools();
  loose.os_version_id.clear();
  EXPECT_TRUE(CheckExtensionFits(loose, "debian", "13").ok());
  loose.os_id = "_any";
  loose.os_version_id = "12";
  EXPECT_TRUE(CheckExtensionFits(loose, "fedora", "40").ok());
}

}  // namespace
}  // namespace sealift
