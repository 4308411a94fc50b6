# Warnings, hardening and sanitizers, set once for our own code. Third-party and generated code is SYSTEM.
add_library(sealift_options INTERFACE)
target_compile_options(sealift_options INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast -Wnon-virtual-dtor
  -Woverloaded-virtual -Wimplicit-fallthrough -Werror
  # Partial designated initialisers are how option structs read best; every field has a default.
  -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_BUILD_TYPE STREQUAL "Release")
  # With -O2 gcc 12 sees overflows in libstdc++'s own vector and string code that cannot happen (gcc bugs 105329,
  # 105651, 106199). ASan and clang's analyzer look for the real ones.
  target_compile_options(sealift_options INTERFACE -Wno-stringop-overflow -Wno-stringop-overread -Wno-array-bounds -Wno-restrict)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(sealift_options INTERFACE -Wthread-safety)
endif()
target_include_directories(sealift_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(sealift_options INTERFACE SEALIFT_VERSION="${PROJECT_VERSION}")

if(SEALIFT_SANITIZE)
  add_compile_options(-fsanitize=${SEALIFT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${SEALIFT_SANITIZE})
elseif(CMAKE_BUILD_TYPE STREQUAL "Release")
  add_compile_options(-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection)
  add_link_options(-Wl,-z,relro,-z,now -pie)
endif()
