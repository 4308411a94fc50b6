#include "shared/efi/variable_store.h"

#include <gtest/gtest.h>

#include "shared/base/files.h"
#include "shared/efi/signature_list.h"
#include "tests/support/places.h"
#include "tests/support/tools.h"

namespace sealift::efi {
namespace {

// One db in force, one deleted variable, one dbx that a write was about to replace.
Bytes Sample() { return ReadFile(SEALIFT_SOURCE_DIR "/tests/fuzz/corpus/variable_store/small").value(); }

TEST(VariableStoreTest, GivesWhatIsInForce) {
  const auto variables = ParseVariableStore(Sample());
  ASSERT_TRUE(variables.ok()) << variables.status();
  ASSERT_EQ(variables->size(), 2u);
  EXPECT_EQ(variables->at(0).name, "db");
  EXPECT_EQ(variables->at(0).vendor, kImageSecurityDatabase);
  EXPECT_EQ(variables->at(0).attributes, 0x27u);
  EXPECT_EQ(ParseSignatureLists(variables->at(0).data)->at(0).type, kCertSha256);
  EXPECT_EQ(variables->at(1).name, "dbx");
  EXPECT_EQ(variables->at(1).data, ToBytes("12345"));
}

TEST(VariableStoreTest, RefusesWhatDoesNotFit) {
  const Bytes good = Sample();
  for (std::size_t size = 0; size < good.size(); ++size)
    EXPECT_FALSE(ParseVariableStore(ByteView(good).first(size)).ok()) << size;
  const auto with = [&](std::size_t offset, std::uint8_t value) {
    Bytes bytes = good;
    bytes[offset] = value;
    return ParseVariableStore(bytes).ok();
  };
  EXPECT_TRUE(with(0, 1));             // the zero vector is code on some machines
  EXPECT_FALSE(with(16, 0));           // another kind of volume
  EXPECT_FALSE(with(39, 1));           // volume beyond the file
  EXPECT_FALSE(with(72, 0));           // another kind of store
  EXPECT_FALSE(with(72 + 16 + 3, 1));  // store beyond the volume
  EXPECT_FALSE(with(72 + 20, 0));      // not formatted
  const std::size_t first = 72 + 28;
  EXPECT_FALSE(with(first + 36 + 3, 0x7f));  // name beyond the store
  EXPECT_FALSE(with(first + 40 + 3, 0x7f));  // data beyond the store
}

TEST(VariableStoreTest, ReadsDebiansEnrolledStore) {
  SEALIFT_NEED_FILE("/usr/share/OVMF/OVMF_VARS_4M.ms.fd");
  const auto file = ReadFile("/usr/share/OVMF/OVMF_VARS_4M.ms.fd");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto variables = ParseVariableStore(*file);
  ASSERT_TRUE(variables.ok()) << variables.status();
  std::size_t found = 0;
  for (const StoredVariable& variable : *variables) {
    if (variable.name != "db" && variable.name != "KEK" && variable.name != "PK") continue;
    const auto lists = ParseSignatureLists(variable.data);
    ASSERT_TRUE(lists.ok()) << variable.name;
    EXPECT_EQ(lists->size(), variable.name == "PK" ? 1u : 2u);
    ++found;
  }
  EXPECT_EQ(found, 3u);
}

}  // namespace
}  // namespace sealift::efi
