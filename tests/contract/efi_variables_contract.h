// What every EfiVariables must do. Instantiate with a factory:
//
//   INSTANTIATE_TEST_SUITE_P(Map, EfiVariablesContract, testing::Values(EfiVariablesFactory{...}));
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "node-agent/esp/efi_variables.h"

namespace sealift::agent {

struct EfiVariablesFactory {
  std::string name;
  // Variables of a machine that has none but SecureBoot.
  std::function<std::shared_ptr<EfiVariables>()> make;
};
inline void PrintTo(const EfiVariablesFactory& factory, std::ostream* out) { *out << factory.name; }

class EfiVariablesContract : public testing::TestWithParam<EfiVariablesFactory> {
 protected:
  std::shared_ptr<EfiVariables> variables_ = GetParam().make();

  std::string Get(std::string_view name) {
    auto value = variables_->Read(name, kGlobalVendor);
    if (!value.ok()) return Describe(value.status());
    return *value ? ToText(**value) : "(none)";
  }
  Status Put(std::string_view name, std::string_view value) {
    return variables_->Write(name, kGlobalVendor, kPlainVariable, AsBytes(value));
  }
};

TEST_P(EfiVariablesContract, ReadsWhatWasWrittenLast) {
  EXPECT_EQ(Get("Boot0007"), "(none)");
  ASSERT_TRUE(Put("Boot0007", "a longer first value").ok());
  ASSERT_TRUE(Put("Boot0007", "second").ok());
  EXPECT_EQ(Get("Boot0007"), "second");
}

TEST_P(EfiVariablesContract, RemovesAndIsContentWhereThereIsNone) {
  ASSERT_TRUE(Put("Boot0007", "value").ok());
  EXPECT_TRUE(variables_->Remove("Boot0007", kGlobalVendor).ok());
  EXPECT_EQ(Get("Boot0007"), "(none)");
  EXPECT_TRUE(variables_->Remove("Boot0007", kGlobalVendor).ok());
}

TEST_P(EfiVariablesContract, KeepsVendorsApart) {
  ASSERT_TRUE(Put("db", "global").ok());
  auto other = variables_->Read("db", kImageSecurityVendor);
  ASSERT_TRUE(other.ok());
  EXPECT_FALSE(other->has_value());
}

TEST_P(EfiVariablesContract, TextRoundTrips) {
  ASSERT_TRUE(variables_->WriteText("LoaderEntryOneShot", kLoaderVendor, "recovery.conf").ok());
  auto text = variables_->ReadText("LoaderEntryOneShot", kLoaderVendor);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(*text, "recovery.conf");
  auto raw = variables_->Read("LoaderEntryOneShot", kLoaderVendor);
  ASSERT_TRUE(raw.ok() && raw->has_value());
  EXPECT_EQ((*raw)->size(), 2 * (std::string_view("recovery.conf").size() + 1));
}

}  // namespace sealift::agent
