// The options of `sealift build-uki` and the fields of BuildService's request are one list.
#include "controller/cli/build_options.h"

#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "controller/buildhost/source_rules.h"
#include "shared/base/files.h"

namespace sealift::cli {
namespace {

using controller::BuildRequest;
using google::protobuf::FieldDescriptor;
using google::protobuf::util::MessageDifferencer;

// What belongs to the machine that holds keys and writes results, or to the connection.
const std::set<std::string> kLocalOnly = {"help",
                                          "output",
                                          "keys",
                                          "token",
                                          "journal",
                                          "generation",
                                          "profile",
                                          "at_controller",
                                          "node_config",
                                          "install_config",  // their texts travel
                                          "allow_expired_certificate"};
// SOURCE_DATE_EPOCH, and the text of a file.
const std::set<std::string> kNoOption = {"built_unix_ms", "node_config", "install_config"};
// A value for options that do not take any text.
const std::map<std::string, std::string> kValues = {
    {"zstd_level", "7"},   {"output_type", "iso"},  {"efi_size_warn", "77"},  {"esp_size", "777"},
    {"menu_timeout", "9"}, {"security_epoch", "3"}, {"sign_phase", "sysinit"}};
// Options that another one has to stand beside.
const std::map<std::string, std::vector<std::string>> kBeside = {{"hwids", {"--dtb-auto", "t"}},
                                                                 {"publish", {"--at-controller"}}};

std::string FieldName(const CLI::Option& option) {
  std::string name = option.get_lnames().empty() ? option.get_name(true) : option.get_lnames().front();
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

struct Parsed {
  Parsed() {
    verb = app.add_subcommand("build-uki");
    verb->add_option("--output", output);
    AddBuildOptions(*verb, arguments);
  }
  v1::BuildRequest Wire(std::vector<std::string> words) {
    words.insert(words.begin(), "build-uki");
    std::reverse(words.begin(), words.end());
    app.parse(words);
    return ToWire(arguments.request);
  }
  CLI::App app;
  CLI::App* verb = nullptr;
  std::string output;
  BuildArguments arguments;
};

std::vector<const FieldDescriptor*> Fields() {
  std::vector<const FieldDescriptor*> fields;
  for (int i = 0; i < v1::BuildRequest::descriptor()->field_count(); ++i)
    fields.push_back(v1::BuildRequest::descriptor()->field(i));
  return fields;
}

TEST(BuildOptionsTest, EveryOptionHasAFieldOrIsLocalAndEveryFieldAnOption) {
  Parsed parsed;
  std::set<std::string> options;
  for (const CLI::Option* option : parsed.verb->get_options()) options.insert(FieldName(*option));
  std::set<std::string> fields;
  for (const FieldDescriptor* field : Fields()) fields.insert(field->name());
  for (const std::string& option : options)
    EXPECT_TRUE(fields.contains(option) || kLocalOnly.contains(option)) << option << " does not travel";
  for (const std::string& field : fields)
    EXPECT_TRUE(options.contains(field) || kNoOption.contains(field)) << field << " is no option";
}

TEST(BuildOptionsTest, EveryOptionArrivesAsItWasGiven) {
  const v1::BuildRequest plain = Parsed().Wire({"dir:/x"});
  for (const FieldDescriptor* field : Fields()) {
    const std::string& name = field->name();
    if (kNoOption.contains(name) || name == "source") continue;
    SCOPED_TRACE(name);
    std::string flag = "--" + name;
    std::replace(flag.begin(), flag.end(), '_', '-');
    std::vector<std::string> words = {"dir:/x", flag};
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_BOOL)
      words.push_back(kValues.contains(name) ? kValues.at(name) : "some words");
    if (kBeside.contains(name)) words.insert(words.end(), kBeside.at(name).begin(), kBeside.at(name).end());
    const v1::BuildRequest wire = Parsed().Wire(words);
    // The field, and what had to stand beside it, and nothing else.
    std::vector<std::string> changed;
    for (const FieldDescriptor* other : Fields()) {
      MessageDifferencer differencer;
      if (!differencer.CompareWithFields(plain, wire, {other}, {other})) changed.push_back(other->name());
    }
    ASSERT_TRUE(std::find(changed.begin(), changed.end(), name) != changed.end());
    EXPECT_LE(changed.size(), 2u);
    v1::BuildRequest sent = wire;
    if (name == "name" || name == "overlay_iso") sent.set_output_type("iso");
    const Result<BuildRequest> arrived = controller::BuildRequestFromWire(sent);
    ASSERT_TRUE(arrived.ok()) << arrived.status();
    EXPECT_TRUE(MessageDifferencer::Equals(ToWire(*arrived), sent)) << ToWire(*arrived).DebugString();
  }
}

TEST(BuildOptionsTest, WhatIsLeftOutHasTheCommandsDefaults) {
  v1::BuildRequest least;
  least.set_source("dir:/x");
  const Result<BuildRequest> request = controller::BuildRequestFromWire(least);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_TRUE(MessageDifferencer::Equals(ToWire(*request), Parsed().Wire({"dir:/x"})));
}

TEST(BuildOptionsTest, EveryFieldIsBounded) {
  for (const FieldDescriptor* field : Fields()) {
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_STRING) continue;
    v1::BuildRequest wire;
    wire.set_source("dir:/x");
    const std::string text((1u << 20) + 1, 'x');
    if (field->is_repeated()) {
      for (int i = 0; i < 300; ++i) wire.GetReflection()->AddString(&wire, field, "x");
    } else {
      wire.GetReflection()->SetString(&wire, field, text);
    }
    EXPECT_EQ(ReasonOf(controller::BuildRequestFromWire(wire).status()), Reason::kInvalidArgument)
        << field->name();
  }
  v1::BuildRequest wire;
  wire.set_source("dir:/x");
  wire.set_esp_size(~std::uint64_t{0});
  EXPECT_FALSE(controller::BuildRequestFromWire(wire).ok());
  wire.set_esp_size(10);
  wire.set_built_unix_ms(-1);
  EXPECT_FALSE(controller::BuildRequestFromWire(wire).ok());
}

// Each text field is known to name a file of the build host or not; those that do are looked at.
TEST(BuildOptionsTest, EveryPathGoesThroughTheRulesOfSources) {
  const std::set<std::string> no_paths = {"node_config",
                                          "install_config",
                                          "version",
                                          "uki_profile",
                                          "output_type",
                                          "output_dir",
                                          "name",
                                          "boot_branding",
                                          "cmdline",
                                          "extend_cmdline",
                                          "extra_cmdline",
                                          "single_efi_cmdline",
                                          "unlock_with_extra_cmdline",
                                          "sign_phase",
                                          "allow_finding",
                                          "secure_boot_enroll",
                                          "publish"};
  const TempDir folder = TempDir::Create("sources").value();
  const auto rules = controller::SourceRules::Parse({folder.path()});
  ASSERT_TRUE(rules.ok()) << rules.status();
  for (const FieldDescriptor* field : Fields()) {
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_STRING) continue;
    v1::BuildRequest wire;
    wire.set_source("dir:" + folder.path().string());
    wire.set_output_type("iso");
    const std::string outside = field->name() == "source" ? "dir:/etc/hostname" : "/etc/hostname";
    if (field->is_repeated()) {
      wire.GetReflection()->AddString(&wire, field, outside);
    } else if (field->name() != "output_type" && field->name() != "publish") {
      wire.GetReflection()->SetString(&wire, field, outside);
    }
    Result<BuildRequest> request = controller::BuildRequestFromWire(wire);
    ASSERT_TRUE(request.ok()) << field->name() << request.status();
    const Status admitted = rules->Admit(*request);
    EXPECT_EQ(ReasonOf(admitted) == Reason::kBuildSourceForbidden, !no_paths.contains(field->name()))
        << field->name() << " " << admitted;
  }
}

// A tag that is a way out once a folder has the name of the place before it.
TEST(BuildOptionsTest, TagsLeadNowhere) {
  const TempDir folder = TempDir::Create("sources").value();
  const TempDir other = TempDir::Create("others").value();
  ASSERT_TRUE(WriteFileAtomically(other.path() / "x.tar", AsBytes("x")).ok());
  std::filesystem::create_directory(folder.path() / "real");
  std::filesystem::create_directory(folder.path() / "real:..");
  std::filesystem::create_directory_symlink("real", folder.path() / "a");
  const auto rules = controller::SourceRules::Parse({folder.path()});
  ASSERT_TRUE(rules.ok()) << rules.status();
  v1::BuildRequest wire;
  wire.set_source("oci-archive:" + (folder.path() / "a").string() + ":../../../" +
                  other.path().filename().string() + "/x.tar");
  Result<BuildRequest> request = controller::BuildRequestFromWire(wire);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(ReasonOf(rules->Admit(*request)), Reason::kBuildSourceForbidden);
}

}  // namespace
}  // namespace sealift::cli
