// Extensions as others read them: veritysetup, sfdisk, openssl and unsquashfs agree, and any changed byte of
// data or signature is refused.
#include "controller/extension/extension_builder.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "shared/crypto/hash.h"
#include "shared/ddi/extension_image.h"
#include "shared/efi/signed_data.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_pki.h"
#include "tests/support/tools.h"

namespace sealift::extension {
namespace {

using test::ReasonIdFrom;
namespace fs = std::filesystem;

class ExtensionTest : public testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOL("mksquashfs");
    SEALIFT_NEED_TOOL("veritysetup");
    SEALIFT_NEED_TOOL("sfdisk");
    key_ = test::Issue({.common_name = "extensions", .extended_key_usage = ""}, nullptr);
    ASSERT_TRUE(MakeDirectories(tree_ / "usr/bin").ok());
    ASSERT_TRUE(WriteFileAtomically(tree_ / "usr/bin/tool", AsBytes("#!/bin/sh\necho tool\n"), 0755).ok());
    // More than one block of hashes.
    ASSERT_TRUE(WriteFileAtomically(tree_ / "usr/data", RandomBytes(1u << 20)).ok());
  }
  static Bytes Der(const test::TestCertificate& certificate) {
    return efi::CertificatePemToDer(certificate.Pem()).value();
  }
  ExtensionOptions Options(const std::string& file = "tools.raw") const {
    return {.source = tree_,
            .name = "tools",
            .version = "1.0",
            .os_id = "debian",
            .os_version_id = "12",
            .out = folder_.path() / file,
            .built = FromUnixMs(1'700'000'000'000)};
  }
  Result<ListedExtension> Build(const ExtensionOptions& options) const {
    return BuildExtension(options, *key_.key, Der(key_));
  }
  Status Verify(const fs::path& image, const test::TestCertificate& certificate) const {
    const auto opened = ddi::ExtensionImage::Open(image);
    const std::vector<Bytes> trusted = {Der(certificate)};
    return opened.ok() ? opened->Verify(trusted) : opened.status();
  }

  TempDir folder_ = TempDir::Create("extension-test").value();
  fs::path tree_ = folder_.path() / "tree";
  test::TestCertificate key_;
};

std::vector<nlohmann::json> Partitions(const fs::path& image) {
  const auto dump = test::RunTool({"sfdisk", "--json", image.string()});
  return nlohmann::json::parse(dump.out).at("partitiontable").at("partitions");
}

// A partition as a file of its own.
fs::path Extract(const fs::path& image, const nlohmann::json& partition, const fs::path& to) {
  const Bytes bytes = ReadFile(image).value();
  const std::size_t at = partition.at("start").get<std::size_t>() * 512;
  const Bytes part(
      bytes.begin() + static_cast<std::ptrdiff_t>(at),
      bytes.begin() + static_cast<std::ptrdiff_t>(at + partition.at("size").get<std::size_t>() * 512));
  EXPECT_TRUE(WriteFileAtomically(to, part).ok());
  return to;
}

TEST_F(ExtensionTest, OtherToolsAgreeOnEveryPart) {
  const auto built = Build(Options());
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_EQ(built->digest, Sha256(ReadFile(Options().out).value()));
  const auto partitions = Partitions(Options().out);
  ASSERT_EQ(partitions.size(), 3u);
  EXPECT_EQ(test::RunTool({"sfdisk", "--verify", Options().out.string()}).exit_code, 0);

  const fs::path data = Extract(Options().out, partitions[0], folder_.path() / "data");
  const fs::path hashes = Extract(Options().out, partitions[1], folder_.path() / "hashes");
  const auto verified =
      test::RunTool({"veritysetup", "verify", data.string(), hashes.string(), built->root_hash.hex()});
  EXPECT_EQ(verified.exit_code, 0) << verified.err;

  const Bytes signature =
      ReadFile(Extract(Options().out, partitions[2], folder_.path() / "signature")).value();
  const auto claim = nlohmann::json::parse(ToText(signature).substr(0, ToText(signature).find('\0')));
  EXPECT_EQ(claim.at("rootHash"), built->root_hash.hex());
  EXPECT_EQ(claim.at("certificateFingerprint"), Sha256(Der(key_)).hex());
  const fs::path pkcs7 = folder_.path() / "root.p7s";
  ASSERT_TRUE(
      WriteFileAtomically(pkcs7, Base64Decode(claim.at("signature").get<std::string>()).value()).ok());
  const fs::path message = folder_.path() / "root";
  ASSERT_TRUE(WriteFileAtomically(message, AsBytes(built->root_hash.hex())).ok());
  const fs::path certificate = folder_.path() / "certificate.pem";
  ASSERT_TRUE(WriteFileAtomically(certificate, AsBytes(key_.Pem())).ok());
  // As systemd checks it: the signature alone, the certificate being known already.
  const auto openssl = test::RunTool({"openssl", "smime", "-verify", "-binary", "-inform", "DER", "-in",
                                      pkcs7.string(), "-content", message.string(), "-certfile",
                                      certificate.string(), "-nointern", "-noverify", "-out", "/dev/null"});
  EXPECT_EQ(openssl.exit_code, 0) << openssl.err;

  const auto release = test::RunTool(
      {"unsquashfs", "-cat", data.string(), "usr/lib/extension-release.d/extension-release.tools"});
  EXPECT_EQ(release.out, "ID=debian\nVERSION_ID=12\nSYSEXT_VERSION_ID=1.0\n");
}

TEST_F(ExtensionTest, IsDescribedAsItWasBuilt) {
  const auto built = Build(Options());
  ASSERT_TRUE(built.ok()) << built.status();
  const std::vector<Bytes> trusted = {Der(key_)};
  const auto described = DescribeExtension(Options().out, trusted);
  ASSERT_TRUE(described.ok()) << described.status();
  EXPECT_EQ(*described, *built);
  const auto stranger = test::Issue({.common_name = "stranger"}, nullptr);
  const std::vector<Bytes> others = {Der(stranger)};
  EXPECT_EQ(ReasonIdFrom(DescribeExtension(Options().out, others)), "EXTENSION_SIGNATURE_INVALID");
  fs::rename(Options().out, folder_.path() / "renamed.raw");
  EXPECT_EQ(ReasonIdFrom(DescribeExtension(folder_.path() / "renamed.raw", trusted)), "EXTENSION_INVALID");
}

TEST_F(ExtensionTest, IsTheSameEachTimeUpToItsSignature) {
  const auto first = Build(Options());
  // What reproducible builds set, and mksquashfs reads by itself.
  ::setenv("SOURCE_DATE_EPOCH", "1", 1);
  const auto second = Build(Options("again.raw"));
  ::unsetenv("SOURCE_DATE_EPOCH");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->root_hash, second->root_hash);
  const auto partitions = Partitions(Options().out);
  const std::size_t signed_at = partitions[2].at("start").get<std::size_t>() * 512;
  const Bytes one = ReadFile(Options("tools.raw").out).value();
  const Bytes two = ReadFile(Options("again.raw").out).value();
  ASSERT_EQ(one.size(), two.size());
  EXPECT_TRUE(std::equal(one.begin(), one.begin() + static_cast<std::ptrdiff_t>(signed_at), two.begin()));
}

TEST_F(ExtensionTest, AnyChangedByteOfDataHashOrSignatureIsRefused) {
  ASSERT_TRUE(Build(Options()).ok());
  ASSERT_TRUE(Verify(Options().out, key_).ok());
  const Bytes good = ReadFile(Options().out).value();
  const auto partitions = Partitions(Options().out);
  const auto start = [&](int partition) {
    return partitions[static_cast<std::size_t>(partition)].at("start").get<std::size_t>() * 512;
  };
  const fs::path changed = folder_.path() / "changed.raw";
  int refused = 0;
  const auto flip = [&](std::size_t at) {
    Bytes bytes = good;
    bytes[at] ^= 1;
    ASSERT_TRUE(WriteFileAtomically(changed, bytes).ok());
    const Status status = Verify(changed, key_);
    EXPECT_FALSE(status.ok()) << "byte " << at;
    EXPECT_THAT(ReasonIdOf(status), testing::AnyOf("EXTENSION_INVALID", "EXTENSION_SIGNATURE_INVALID"));
    ++refused;
  };
  const std::size_t data_bytes = partitions[0].at("size").get<std::size_t>() * 512;
  for (std::size_t i = 0; i < 16; ++i) flip(start(0) + i * (data_bytes / 16));
  flip(start(0) + data_bytes - 1);
  // Superblock: version, sizes, salt.
  for (const unsigned at : {0u, 8u, 12u, 32u, 64u, 68u, 72u, 80u, 88u}) flip(start(1) + at);
  const std::string text = ToText(ByteView(good).subspan(start(2), 4096));
  for (const char* member : {"\"rootHash\":\"", "\"signature\":\""})
    flip(start(2) + text.find(member) + std::string_view(member).size() + 20);
  // The table: the partitions' types and ids.
  for (std::size_t i = 0; i < 3; ++i) {
    flip(1024 + i * 128);
    if (i < 2) flip(1024 + i * 128 + 16);
  }
  EXPECT_EQ(refused, 33);
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{511}, std::size_t{1024}, start(0), start(1), start(2)}) {
    ASSERT_TRUE(WriteFileAtomically(changed, ByteView(good).first(size)).ok());
    EXPECT_FALSE(Verify(changed, key_).ok()) << size;
  }
}

TEST_F(ExtensionTest, AForeignKeyIsRefusedThoughTheFleetsCertificateIsInside) {
  const auto stranger = test::Issue({.common_name = "extensions"}, nullptr);
  ASSERT_TRUE(BuildExtension(Options(), *stranger.key, Der(stranger)).ok());
  EXPECT_EQ(ReasonIdFrom(Verify(Options().out, key_)), "EXTENSION_SIGNATURE_INVALID");
  // Nor does one that the fleet's key issued count: it is no CA.
  const auto issued = test::Issue({.common_name = "issued"}, &key_);
  fs::remove(Options().out);
  ASSERT_TRUE(BuildExtension(Options(), *issued.key, Der(issued)).ok());
  EXPECT_EQ(ReasonIdFrom(Verify(Options().out, key_)), "EXTENSION_SIGNATURE_INVALID");
}

TEST_F(ExtensionTest, WhatIsNoExtensionIsRefusedAndLeavesNothing) {
  const auto refused = [&](const std::function<void(ExtensionOptions&)>& change) {
    ExtensionOptions options = Options();
    change(options);
    const std::string reason = ReasonIdFrom(Build(options));
    EXPECT_FALSE(fs::exists(Options().out));
    EXPECT_FALSE(fs::exists(Options().out.string() + ".partial"));
    return reason;
  };
  EXPECT_EQ(refused([](auto& o) { o.name = "../evil"; }), "EXTENSION_INVALID");
  EXPECT_EQ(refused([](auto& o) { o.version = "a b"; }), "EXTENSION_INVALID");
  EXPECT_EQ(refused([](auto& o) { o.os_id.clear(); }), "EXTENSION_INVALID");
  EXPECT_EQ(refused([](auto& o) { o.source = o.source.parent_path() / "missing"; }), "FILE_UNREADABLE");
  fs::create_directories(tree_ / "etc");
  EXPECT_EQ(refused([](auto&) {}), "EXTENSION_INVALID");
  fs::remove(tree_ / "etc");
  fs::create_directories(tree_ / "usr/lib");
  fs::create_symlink("/etc/os-release", tree_ / "usr/lib/os-release");
  EXPECT_EQ(refused([](auto&) {}), "EXTENSION_INVALID");
  fs::remove_all(tree_ / "usr/lib");
  fs::create_directory_symlink(folder_.path(), tree_ / "usr/lib");
  EXPECT_EQ(refused([](auto&) {}), "EXTENSION_INVALID");
  EXPECT_FALSE(fs::exists(folder_.path() / "extension-release.d"));
}

}  // namespace
}  // namespace sealift::extension
