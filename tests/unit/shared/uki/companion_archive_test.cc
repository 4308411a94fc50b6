// The archive is checked against one that cpio writes down here by hand, byte by byte; the virtual machine
// checks it against a TPM.
#include "shared/uki/companion_archive.h"

#include <gtest/gtest.h>

#include "shared/crypto/hash.h"
#include "tests/support/status_matchers.h"

namespace sealift::uki {
namespace {

using test::ReasonIdFrom;

CompanionFile File(const std::string& name, std::string_view content) {
  return {.name = name, .content = ContentSource(content)};
}

TEST(CompanionArchive, IsMeasuredAsTheStubWritesIt) {
  using std::string_literals::operator""s;
  const std::string none = "00000000";
  const auto entry = [&](const char* inode, const char* mode, const char* size, const char* name_size) {
    return "070701"s + inode + mode + none + none + "00000001" + none + size + none + none + none + none +
           name_size + none;
  };
  const std::string archive =
      entry("00000001", "0000416d", "00000000", "00000007") + ".extra\0"s + "\0\0\0"s +
      entry("00000002", "0000416d", "00000000", "0000000e") + ".extra/sysext\0"s +
      entry("00000003", "00008124", "00000003", "00000014") + ".extra/sysext/a.raw\0"s + "\0\0"s + "one\0"s +
      entry("00000004", "00008124", "00000004", "00000014") + ".extra/sysext/b.raw\0"s + "\0\0"s + "four" +
      entry("00000000", "00000000", "00000000", "0000000B") + "TRAILER!!!\0\0\0\0"s;
  ASSERT_EQ(archive.size() % 4, 0u);
  // In the order of their names, however they are listed.
  const std::vector<CompanionFile> files = {File("b.raw", "four"), File("a.raw", "one")};
  const auto predicted = PredictPcr13(files);
  ASSERT_TRUE(predicted.ok()) << predicted.status();
  ASSERT_EQ(predicted->events.size(), 1u);
  EXPECT_EQ(predicted->events[0].digest, Sha256(AsBytes(archive)));
  EXPECT_EQ(predicted->Value(), ExtendPcr({}, Sha256(AsBytes(archive))));
}

// Both kinds beside one image: each goes into its own archive.
TEST(CompanionArchive, ConfextsAreMeasuredApartAsTheStubWritesThem) {
  using std::string_literals::operator""s;
  const std::string none = "00000000";
  const auto entry = [&](const char* inode, const char* mode, const char* size, const char* name_size) {
    return "070701"s + inode + mode + none + none + "00000001" + none + size + none + none + none + none +
           name_size + none;
  };
  const std::string archive =
      entry("00000001", "0000416d", "00000000", "00000007") + ".extra\0"s + "\0\0\0"s +
      entry("00000002", "0000416d", "00000000", "0000000f") + ".extra/confext\0"s + "\0\0\0"s +
      entry("00000003", "00008124", "00000003", "0000001d") + ".extra/confext/c.confext.raw\0"s + "\0"s +
      "one\0"s + entry("00000000", "00000000", "00000000", "0000000B") + "TRAILER!!!\0\0\0\0"s;
  ASSERT_EQ(archive.size() % 4, 0u);
  const std::vector<CompanionFile> files = {File("a.raw", "two"), File("c.confext.raw", "one")};
  const auto confexts = PredictConfexts(files);
  ASSERT_TRUE(confexts.ok()) << confexts.status();
  ASSERT_EQ(confexts->events.size(), 1u);
  EXPECT_EQ(confexts->events[0].digest, Sha256(AsBytes(archive)));
  EXPECT_EQ(PredictPcr13(files)->Value(),
            PredictPcr13(std::vector<CompanionFile>{File("a.raw", "two")})->Value());
  EXPECT_TRUE(PredictConfexts(std::vector<CompanionFile>{File("a.raw", "two")})->events.empty());
}

TEST(CompanionArchive, WithoutFilesNothingIsMeasured) {
  EXPECT_EQ(PredictPcr13({})->Value(), Sha256Digest());
}

TEST(CompanionArchive, RefusesWhatTheStubWouldPassOver) {
  const auto predict = [](const CompanionFile& file) {
    return ReasonIdFrom(PredictPcr13(std::vector<CompanionFile>{file}));
  };
  for (const char* name : {"", ".raw", "a.img", "a b.raw", "\xc3\xa4.raw", "x/a.raw", ".hidden.raw"})
    EXPECT_EQ(predict(File(name, "x")), "EXTENSION_INVALID") << name;
  EXPECT_EQ(predict(File(std::string(252, 'a') + ".raw", "x")), "EXTENSION_INVALID");
}

}  // namespace
}  // namespace sealift::uki
