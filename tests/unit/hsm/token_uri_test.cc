#include "hsm/token_uri.h"

#include <gtest/gtest.h>

#include <fstream>

#include "hsm/pin.h"
#include "shared/base/files.h"

namespace sealift::hsm {
namespace {

TEST(TokenUri, RoundTripsWhatItKnows) {
  const std::string text =
      "pkcs11:token=demo-online;id=%01%FE?pin-source=file:/srv/a%20b.pin&x-softhsm-store=/srv/tokens";
  const auto uri = TokenUri::Parse(text);
  ASSERT_TRUE(uri.ok()) << Describe(uri.status());
  EXPECT_EQ(uri->token, "demo-online");
  EXPECT_EQ(uri->id, (Bytes{0x01, 0xfe}));
  EXPECT_EQ(uri->pin_file, "/srv/a b.pin");
  EXPECT_EQ(uri->softhsm_store, "/srv/tokens");
  EXPECT_EQ(uri->Text(), text);
  EXPECT_EQ(uri->TokenOnly().Text(), "pkcs11:token=demo-online?x-softhsm-store=/srv/tokens");
}

TEST(TokenUri, AcceptsBothWaysToNameAPinFile) {
  EXPECT_EQ(TokenUri::Parse("pkcs11:token=a?pin-source=/p")->pin_file, "/p");
  EXPECT_EQ(TokenUri::Parse("pkcs11:token=a;pin-source=file:/p")->pin_file, "/p");
  EXPECT_EQ(TokenUri::Parse("pkcs11:token=a?pin-source=file:///p")->pin_file, "/p");
}

TEST(TokenUri, RefusesPinsAndCommandsAndNeverRepeatsThem) {
  for (const char* text :
       {"pkcs11:token=a?pin-value=hunter2", "pkcs11:token=a;pin-value=hunter2",
        "pkcs11:token=a?pin-value=hunter2&pin-source=file:/p", "pkcs11:token=%zzhunter2"}) {
    const auto uri = TokenUri::Parse(text);
    ASSERT_FALSE(uri.ok()) << text;
    EXPECT_EQ(ReasonOf(uri.status()), Reason::kInvalidArgument);
    EXPECT_EQ(MessageOf(uri.status()).find("hunter2"), std::string::npos);
  }
  for (const char* text : {"pkcs11:token=a?pin-source=|cat /p", "pkcs11:token=a?pin-source=%7Ccat",
                           "pkcs11:token=a?pin-source=p", "pkcs11:token=a?pin-source=file:p",
                           "pkcs11:", "pkcs11:object=x", "token=a", "", "pkcs11:token=a;bogus=1",
                           "pkcs11:token=a?module-path=x.so", "pkcs11:token=a?x-softhsm-store=relative"}) {
    EXPECT_FALSE(TokenUri::Parse(text).ok()) << text;
  }
  EXPECT_FALSE(TokenUri::Parse("pkcs11:token=" + std::string(5000, 'a')).ok());
}

TEST(TokenUri, ArgumentsMayNameAGroup) {
  EXPECT_EQ(TokenArgument::Parse("root=pkcs11:token=a")->group, "root");
  EXPECT_EQ(TokenArgument::Parse("root=pkcs11:token=a")->uri.token, "a");
  EXPECT_EQ(TokenArgument::Parse("pkcs11:token=a")->group, "");
  EXPECT_FALSE(TokenArgument::Parse("root").ok());
  EXPECT_FALSE(TokenArgument::Parse("").ok());
}

class PinFile : public ::testing::Test {
 protected:
  std::string Write(std::string_view content, mode_t mode = 0600) {
    const auto path = folder_.path() / "pin";
    EXPECT_TRUE(WriteFileAtomically(path, AsBytes(content), mode).ok());
    return path;
  }
  TempDir folder_ = TempDir::Create("pin").value();
};

TEST_F(PinFile, OneLineEndIsNotPartOfThePin) {
  for (const char* content : {"1234", "1234\n", "1234\r\n"}) {
    const auto pin = ReadPinFile(Write(content));
    ASSERT_TRUE(pin.ok()) << Describe(pin.status());
    EXPECT_TRUE(pin->Equals(AsBytes("1234")));
  }
}

TEST_F(PinFile, RefusesWhatIsNoPin) {
  for (const std::string& content :
       {std::string(), std::string("\n"), std::string("12\n34\n"), std::string("1234\n\n"),
        std::string(256, '1'), std::string(5000, '1')}) {
    EXPECT_EQ(ReasonOf(ReadPinFile(Write(content)).status()), Reason::kHsmPinMissing) << content.size();
  }
  EXPECT_EQ(ReasonOf(ReadPinFile(Write("1234", 0644)).status()), Reason::kPermissionsTooLoose);
  EXPECT_FALSE(ReadPinFile(folder_.path() / "absent").ok());
}

TEST_F(PinFile, ComesFromASystemdCredentialWhenTheUriNamesNone) {
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "sealift.pin.online", AsBytes("5678"), 0600).ok());
  setenv("CREDENTIALS_DIRECTORY", folder_.path().c_str(), 1);
  const auto pin = ReadPin(TokenUri{.token = "online"});
  unsetenv("CREDENTIALS_DIRECTORY");
  ASSERT_TRUE(pin.ok()) << Describe(pin.status());
  EXPECT_TRUE(pin->Equals(AsBytes("5678")));
}

}  // namespace
}  // namespace sealift::hsm
