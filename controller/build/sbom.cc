#include "controller/build/sbom.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "shared/crypto/hash.h"

namespace sealift::build {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kNoAssertion[] = "NOASSERTION";
constexpr char kDocumentId[] = "SPDXRef-DOCUMENT";
constexpr char kSystemId[] = "SPDXRef-OperatingSystem";

bool IsAlphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// SPDX 2.3, 7.2: letters, digits, "." and "-".
std::string IdString(std::string_view text) {
  std::string id(text);
  std::replace_if(
      id.begin(), id.end(), [](char c) { return !IsAlphanumeric(c) && c != '.'; }, '-');
  return id;
}

// Two packages of one name differ in version or architecture, whose form an identifier may not keep.
std::string PackageId(const Package& package) {
  const std::string all =
      fmt::format("{}\n{}\n{}\n{}", package.type, package.name, package.version, package.architecture);
  return fmt::format("SPDXRef-Package-{}-{}-{}", package.type, IdString(package.name),
                     Sha256(AsBytes(all)).hex().substr(0, 12));
}

// purl-spec: percent-encoding of all but these.
std::string PurlPart(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (IsAlphanumeric(c) || std::string_view(".-_~:").find(c) != std::string_view::npos)
      out += c;
    else
      fmt::format_to(std::back_inserter(out), "%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

std::string Purl(const Package& package, const SbomSubject& subject) {
  std::string_view version = package.version;
  std::string epoch;
  if (const std::size_t colon = version.find(':'); package.type == "rpm" && colon != std::string_view::npos) {
    epoch = fmt::format("&epoch={}", PurlPart(version.substr(0, colon)));
    version.remove_prefix(colon + 1);
  }
  return fmt::format("pkg:{}/{}/{}@{}?arch={}{}&distro={}-{}", package.type, PurlPart(subject.os_id),
                     PurlPart(package.name), PurlPart(version), PurlPart(package.architecture), epoch,
                     PurlPart(subject.os_id), PurlPart(subject.os_version));
}

// 7.5: "Person: Jane Doe (jane@example.com)" or "Organization: ...". A database does not say which it is.
std::string Supplier(std::string_view text) {
  if (text.empty()) return kNoAssertion;
  std::string supplier = fmt::format("Organization: {}", text);
  std::replace(supplier.begin(), supplier.end(), '<', '(');
  std::replace(supplier.begin(), supplier.end(), '>', ')');
  return supplier;
}

Json PackageJson(const Package& package, const SbomSubject& subject) {
  Json json = {{"name", package.name},
               {"SPDXID", PackageId(package)},
               {"versionInfo", package.version},
               {"supplier", Supplier(package.supplier)},
               {"downloadLocation", kNoAssertion},
               {"filesAnalyzed", false},
               {"licenseConcluded", kNoAssertion},
               {"licenseDeclared", kNoAssertion},
               {"copyrightText", kNoAssertion}};
  if (!package.homepage.empty()) json["homepage"] = package.homepage;
  if (!package.license.empty())
    json["licenseComments"] = fmt::format("the package database says: {}", package.license);
  json["externalRefs"] = {{{"referenceCategory", "PACKAGE-MANAGER"},
                           {"referenceType", "purl"},
                           {"referenceLocator", Purl(package, subject)}}};
  return json;
}

Json Relationship(const std::string& from, const char* type, const std::string& to) {
  return {{"spdxElementId", from}, {"relationshipType", type}, {"relatedSpdxElement", to}};
}

// 6.9 wants whole seconds.
std::string CreationTime(UnixMillis built) { return FormatRfc3339(built).substr(0, 19) + "Z"; }

}  // namespace

std::string WriteSbom(const SbomSubject& subject, const InstalledPackages& installed) {
  Json system = {{"name", subject.title},
                 {"SPDXID", kSystemId},
                 {"versionInfo", subject.version},
                 {"supplier", kNoAssertion},
                 {"downloadLocation", kNoAssertion},
                 {"filesAnalyzed", false},
                 {"checksums", {{{"algorithm", "SHA256"}, {"checksumValue", subject.initrd.hex()}}}},
                 {"primaryPackagePurpose", "OPERATING-SYSTEM"},
                 {"licenseConcluded", kNoAssertion},
                 {"licenseDeclared", kNoAssertion},
                 {"copyrightText", kNoAssertion}};
  Json document = {
      {"spdxVersion", "SPDX-2.3"},
      {"dataLicense", "CC0-1.0"},
      {"SPDXID", kDocumentId},
      {"name", fmt::format("{} {}", subject.title, subject.version)},
      {"documentNamespace", fmt::format("https://spdx.org/spdxdocs/sealift-{}", subject.initrd.hex())},
      {"creationInfo",
       {{"created", CreationTime(subject.built)},
        {"creators", {fmt::format("Tool: sealift-{}", SEALIFT_VERSION)}}}},
      {"packages", Json::array({std::move(system)})},
      {"relationships", Json::array({Relationship(kDocumentId, "DESCRIBES", kSystemId)})}};
  for (const Package& package : installed.packages) {
    // A database that lists one package twice says nothing more by it.
    if (&package != installed.packages.data() && package == *(&package - 1)) continue;
    document["packages"].push_back(PackageJson(package, subject));
    document["relationships"].push_back(Relationship(kSystemId, "CONTAINS", PackageId(package)));
  }
  // Text that is no UTF-8 gets U+FFFD, so that the document is JSON whatever the databases hold.
  return document.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace sealift::build
