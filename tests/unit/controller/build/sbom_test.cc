#include "controller/build/sbom.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

namespace sealift::build {
namespace {

using Json = nlohmann::json;

SbomSubject Subject() {
  SbomSubject subject{.os_id = "debian",
                      .os_version = "12",
                      .title = "Debian GNU/Linux 12",
                      .version = "1.0",
                      .built = FromUnixMs(1'767'225'600'123)};
  subject.initrd.bytes.fill(0xcd);
  return subject;
}

InstalledPackages Packages() {
  return {
      .packages = {{.type = "deb",
                    .name = "libstdc++6",
                    .version = "1:12.2.0-14",
                    .architecture = "amd64",
                    .supplier = "Debian GCC <gcc@example.org>",
                    .homepage = "https://gcc.gnu.org"},
                   {.type = "deb", .name = "libstdc++6", .version = "1:12.2.0-14", .architecture = "i386"},
                   {.type = "rpm",
                    .name = "bash",
                    .version = "2:5.2-1.fc39",
                    .architecture = "x86_64",
                    .supplier = "not utf-8 \xff",
                    .license = "GPL"}}};
}

// What SPDX 2.3 asks of a document without files (clauses 6, 7 and 11).
TEST(SbomTest, HasTheStructureOfSpdx) {
  const Json json = Json::parse(WriteSbom(Subject(), Packages()));
  EXPECT_EQ(json["spdxVersion"], "SPDX-2.3");
  EXPECT_EQ(json["dataLicense"], "CC0-1.0");
  EXPECT_EQ(json["SPDXID"], "SPDXRef-DOCUMENT");
  EXPECT_TRUE(json["documentNamespace"].get<std::string>().starts_with("https://"));
  EXPECT_EQ(json["creationInfo"]["created"], "2026-01-01T00:00:00Z");
  EXPECT_TRUE(json["creationInfo"]["creators"][0].get<std::string>().starts_with("Tool: "));
  ASSERT_EQ(json["packages"].size(), 4u);
  std::set<std::string> ids = {"SPDXRef-DOCUMENT"};
  for (const Json& package : json["packages"]) {
    const auto id = package["SPDXID"].get<std::string>();
    EXPECT_TRUE(ids.insert(id).second) << id;
    EXPECT_TRUE(id.starts_with("SPDXRef-"));
    EXPECT_EQ(id.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"),
              std::string::npos);
    EXPECT_FALSE(package["name"].get<std::string>().empty());
    EXPECT_TRUE(package.contains("downloadLocation"));
    EXPECT_EQ(package["filesAnalyzed"], false);
  }
  for (const Json& relationship : json["relationships"]) {
    EXPECT_TRUE(ids.contains(relationship["spdxElementId"]));
    EXPECT_TRUE(ids.contains(relationship["relatedSpdxElement"]));
  }
  EXPECT_EQ(json["relationships"].size(), 4u);
  EXPECT_EQ(json["packages"][0]["checksums"][0]["checksumValue"], Subject().initrd.hex());
}

TEST(SbomTest, NamesPackagesAsScannersDo) {
  const Json json = Json::parse(WriteSbom(Subject(), Packages()));
  const auto purl = [&](std::size_t i) { return json["packages"][i]["externalRefs"][0]["referenceLocator"]; };
  EXPECT_EQ(purl(1), "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14?arch=amd64&distro=debian-12");
  EXPECT_EQ(purl(3), "pkg:rpm/debian/bash@5.2-1.fc39?arch=x86_64&epoch=2&distro=debian-12");
  EXPECT_EQ(json["packages"][1]["supplier"], "Organization: Debian GCC (gcc@example.org)");
  EXPECT_EQ(json["packages"][2]["supplier"], "NOASSERTION");
  EXPECT_EQ(json["packages"][3]["licenseComments"], "the package database says: GPL");
}

TEST(SbomTest, EqualInputGivesEqualText) {
  EXPECT_EQ(WriteSbom(Subject(), Packages()), WriteSbom(Subject(), Packages()));
  SbomSubject other = Subject();
  other.initrd.bytes[0] = 1;
  EXPECT_NE(Json::parse(WriteSbom(other, {}))["documentNamespace"],
            Json::parse(WriteSbom(Subject(), {}))["documentNamespace"]);
}

}  // namespace
}  // namespace sealift::build
